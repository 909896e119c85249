//! Tests version negotiation, and the distinction between refusals of the engine and of a filter.

use serde_json::json;
use wiremock::matchers::{any, method, path_regex};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;

const PAGE: &str = "<html><body><h1>403 Forbidden</h1></body></html>";

fn connection(server: &MockServer, api: Option<&str>) -> Connection {
    let host = format!("tcp://{}", server.address());
    Connection::new(EngineChoice { host, api: api.and_then(|api| api.parse().ok()) }).expect("an address")
}

async fn answer(server: &MockServer, verb: &str, path: &str, response: ResponseTemplate) {
    Mock::given(method(verb)).and(path_regex(path)).respond_with(response).mount(server).await;
}

/// Starts a fake engine that answers every call except `/version` with 404.
async fn engine() -> MockServer {
    let server = MockServer::start().await;
    let version = json!({ "ApiVersion": "1.44", "MinAPIVersion": "1.24", "Components": [] });
    answer(&server, "GET", "^/version$", ResponseTemplate::new(200).set_body_json(version)).await;
    server
}

#[test]
fn the_highest_common_version_is_used() {
    for (case, oldest, newest, configured, expected) in [
        ("an older engine", "1.24", "1.41", None, Ok("1.41")),
        ("a newer engine", "1.44", "1.99", None, Ok("1.51")),
        ("an engine that is too new", "1.60", "1.99", None, Err(["1.24 to 1.51", "1.60 to 1.99"])),
        ("an engine that is too old", "1.12", "1.20", None, Err(["1.24 to 1.51", "1.12 to 1.20"])),
        ("a configured version", "1.24", "1.51", Some("1.44"), Ok("1.44")),
        (
            "a configured version that the engine does not support yet",
            "1.24",
            "1.41",
            Some("1.44"),
            Err(["DOCKER_API_VERSION", "1.24 to 1.41"]),
        ),
        (
            "a configured version that is too old",
            "1.44",
            "1.51",
            Some("1.41"),
            Err(["DOCKER_API_VERSION", "1.44 to 1.51"]),
        ),
    ] {
        let parse = |text: &str| text.parse::<ApiVersion>().expect("a version");
        let choice = EngineChoice { host: "unix:///x.sock".to_owned(), api: configured.map(parse) };
        let connection = Connection::new(choice).expect("an address");
        let common = connection.common_version(parse(oldest), parse(newest));
        let message = common.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert_eq!(common.as_ref().ok(), expected.ok().map(parse).as_ref(), "{case}: {message}");
        assert!(expected.err().into_iter().flatten().all(|part| message.contains(part)), "{case}: {message}");
    }
}

#[tokio::test]
async fn a_read_is_retried_while_images_change() {
    for (case, verb, message, failures, requests, succeeds) in [
        ("a read", "GET", "consistency error: data changed during operation, retry", 2, 3, true),
        ("a read that never succeeds", "GET", "data changed during operation, retry", 99, 1 + READ_RETRIES, false),
        ("a read with another failure", "GET", "out of cheese", 1, 1, false),
        ("a change", "POST", "data changed during operation, retry", 1, 1, false),
    ] {
        let server = engine().await;
        let failure = ResponseTemplate::new(500).set_body_json(json!({ "message": message }));
        let calls = Mock::given(method(verb)).and(path_regex("/images/web$"));
        calls.respond_with(failure).up_to_n_times(failures).mount(&server).await;
        answer(&server, verb, "/images/web$", ResponseTemplate::new(200).set_body_json(json!({}))).await;
        let outcome = connection(&server, None).call(Call::new(verb, &["images", "web"])).await;
        assert_eq!(outcome.is_ok(), succeeds, "{case}: {outcome:?}");
        let received = server.received_requests().await.expect("requests are recorded");
        assert_eq!(received.iter().filter(|request| request.url.path().ends_with("web")).count(), requests, "{case}");
    }
}

#[tokio::test]
async fn f06_refusals_of_a_filter_and_of_the_engine_are_distinguished() {
    let page = |status| ResponseTemplate::new(status).set_body_raw(PAGE, "text/html");
    let json = |status, message: &str| ResponseTemplate::new(status).set_body_json(json!({ "message": message }));
    let update = ["containers", "web", "update"];
    let connect = ["networks", "front", "connect"];
    for (case, path, response, says) in [
        ("an HTML page", &update[..], page(403), "POST /containers/*/update was refused by a proxy or plugin"),
        (
            "a JSON message",
            &update,
            json(403, "denied by plugin"),
            "POST /containers/*/update was refused by a proxy or plugin",
        ),
        ("a login page", &update, page(401), "POST /containers/*/update was refused"),
        ("method not allowed", &update, page(405), "POST /containers/*/update was refused"),
        (
            "an HTML page for a network",
            &connect,
            page(403),
            "POST /networks/*/connect was refused by a proxy or plugin",
        ),
        ("the engine, for a network", &connect, json(403, "already exists in network"), "already exists in network"),
        (
            "a registry's denial",
            &["images", "create"],
            json(403, "denied"),
            "the engine refused with status 403: denied",
        ),
        ("an unreachable engine behind a proxy", &update, page(503), "does not answer (a proxy in front of it"),
        (
            "TLS",
            &update,
            ResponseTemplate::new(400).set_body_string("Client sent an HTTP request to an HTTPS server.\n"),
            "expects TLS",
        ),
    ] {
        let server = engine().await;
        answer(&server, "POST", ".*", response).await;
        let error = connection(&server, None).call(Call::new("POST", path)).await.expect_err("it is refused");
        assert!(error.to_string().contains(says), "{case}: {error}");
    }
}

#[tokio::test]
async fn f06_calls_that_a_filter_refuses_are_found_in_advance() {
    let page = || ResponseTemplate::new(403).set_body_raw(PAGE, "text/html");
    let text = || ResponseTemplate::new(403).set_body_string("Forbidden\n");
    let json = || ResponseTemplate::new(403).set_body_json(json!({ "message": "not allowed" }));
    for (verb, path, response, refused) in [
        ("POST", "/containers/[^/]+/start$", page(), "POST /containers/*/start"),
        ("POST", "/containers/[^/]+/update$", text(), "POST /containers/*/update"),
        ("POST", "/networks/[^/]+/connect$", json(), "POST /networks/*/connect"),
        ("POST", "/networks/[^/]+/disconnect$", page(), "POST /networks/*/disconnect"),
        ("POST", "/images/create$", text(), "POST /images/create"),
        ("POST", "/images/create$", json(), "POST /images/create"),
        ("DELETE", "/containers/[^/]+$", page(), "DELETE /containers/*"),
        ("GET", "/info$", page(), ""),
    ] {
        let server = engine().await;
        answer(&server, verb, path, response).await;
        let missing = ResponseTemplate::new(404).set_body_json(json!({ "message": "no such thing" }));
        Mock::given(any()).respond_with(missing).mount(&server).await;
        let calls = connection(&server, None).refused_calls(false).await.expect("it answers");
        let calls: Vec<String> = calls.iter().map(|permission| permission.call()).collect();
        assert_eq!(calls.join(" "), refused);
    }
}

#[tokio::test]
async fn allowed_calls_are_checked_again_only_after_a_refusal() {
    let server = engine().await;
    answer(&server, "POST", "/containers/web/start$", ResponseTemplate::new(403)).await;
    let missing = ResponseTemplate::new(404).set_body_json(json!({ "message": "no such thing" }));
    Mock::given(any()).respond_with(missing).mount(&server).await;
    let connection = connection(&server, None);
    let checks = async |again| {
        let before = server.received_requests().await.expect("requests are recorded").len();
        connection.refused_calls(again).await.expect("it answers");
        server.received_requests().await.expect("requests are recorded").len() > before
    };
    assert!(checks(false).await, "the first time");
    assert!(!checks(false).await, "the result is cached");
    assert!(checks(true).await, "on request");
    connection.call(Call::new("POST", &["containers", "web", "start"])).await.expect_err("it is refused");
    assert!(checks(false).await, "after a refusal");
}
