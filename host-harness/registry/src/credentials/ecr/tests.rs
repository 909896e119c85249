//! Tests with a simulated AWS in this process, and one test over loopback. No test sends a request to another machine.

use std::future::ready;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::{fmt, fs};

use http::{Request, Response, StatusCode};
use reqsign_core::{Error, HttpSend, Result as SignResult};
use rstest::rstest;
use secrecy::ExposeSecret;
use serde_json::json;
use tempfile::TempDir;
use wiremock::matchers::{body_string, header, header_regex, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::transport::{Files, Variables};
use super::*;

const REGISTRY: &str = "123456789012.dkr.ecr.eu-west-2.amazonaws.com";
const KEY: &str = "AKIDCANARY";
const SECRET: &str = "canary-77ab-secret-key";
const SESSION: &str = "canary-77ab-session";
const PASSWORD: &str = "canary-77ab-password~?>";

type Answers = dyn Fn(&Request<Bytes>) -> Option<(u16, String)> + Send + Sync;

/// Simulates AWS, and records each request as `host path`.
#[derive(Clone)]
struct Cloud {
    answers: Arc<Answers>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cloud")
    }
}

impl HttpSend for Cloud {
    fn http_send(&self, request: Request<Bytes>) -> impl Future<Output = SignResult<Response<Bytes>>> {
        let uri = request.uri();
        self.asked.lock().unwrap().push(format!("{} {}", uri.host().unwrap(), uri.path()));
        let answer = (self.answers)(&request).map(|(status, body)| {
            let mut response = Response::new(Bytes::from(body));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        });
        ready(answer.ok_or_else(|| Error::unexpected("no such server")))
    }
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn ecr(
    variables: &[(&str, &str)],
    answers: impl Fn(&Request<Bytes>) -> Option<(u16, String)> + Send + Sync + 'static,
) -> (Ecr, Cloud) {
    let (environment, cloud) = (environment(variables), Cloud { answers: Arc::new(answers), asked: Arc::default() });
    let context =
        Context::new().with_file_read(Files).with_env(Variables::new(&environment)).with_http_send(cloud.clone());
    (Ecr::with_context(&environment, context), cloud)
}

const KEYS: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_SESSION_TOKEN", SESSION)];

fn token(password: &str) -> String {
    let ends = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() + 43_200.0;
    let token = STANDARD.encode(format!("AWS:{password}"));
    json!({ "authorizationData": [{ "authorizationToken": token, "expiresAt": ends }] }).to_string()
}

fn password(found: Option<Credential>) -> String {
    match found {
        Some(Credential::Basic { username, password }) if username == "AWS" => password.expose_secret().to_owned(),
        other => panic!("{other:?}"),
    }
}

/// Returns a token for a signed request, and keys for a request to a metadata service.
fn aws(request: &Request<Bytes>) -> Option<(u16, String)> {
    let keys = |token: &str| {
        json!({ "Code": "Success", "AccessKeyId": KEY, "SecretAccessKey": SECRET, token: SESSION,
            "Expiration": "2999-01-01T00:00:00Z" })
    };
    match (request.uri().host()?, request.uri().path()) {
        ("169.254.170.2", "/role") => Some((200, keys("Token").to_string())),
        ("169.254.169.254", "/latest/api/token") if request.method() == "PUT" => Some((200, "imds".to_owned())),
        ("169.254.169.254", path) if request.headers()["x-aws-ec2-metadata-token"] == "imds" => {
            let role = "/latest/meta-data/iam/security-credentials/";
            Some((200, if path == role { "watcher".to_owned() } else { keys("Token").to_string() }))
        }
        ("sts.amazonaws.com", _) => Some((
            200,
            format!(
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
             <AccessKeyId>{KEY}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>\
             <SessionToken>{SESSION}</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials>\
             </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            ),
        )),
        ("api.ecr.eu-west-2.amazonaws.com", "/") => {
            let authorization = request.headers()["authorization"].to_str().unwrap();
            let is_signed = authorization.contains(&format!("Credential={KEY}/"))
                && authorization.contains("/eu-west-2/ecr/aws4_request, SignedHeaders=content-type;host;x-amz-date;")
                && request.headers()["x-amz-target"] == "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
            Some(if is_signed { (200, token(PASSWORD)) } else { (400, "{}".to_owned()) })
        }
        _ => None,
    }
}

/// A home folder with a default profile and another profile in `.aws`.
fn home() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".aws")).unwrap();
    let keys =
        |name: &str, key: &str| format!("[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET}\n");
    fs::write(home.path().join(".aws/credentials"), keys("default", KEY)).unwrap();
    fs::write(home.path().join(".aws/config"), keys("profile prod", KEY)).unwrap();
    fs::write(home.path().join("token"), "canary-77ab-jwt\n").unwrap();
    home
}

#[rstest]
#[case::environment(&KEYS, 1)]
#[case::shared_credentials(&[("HOME", "{home}")], 1)]
#[case::profile_of_the_shared_config(&[("HOME", "{home}"), ("AWS_PROFILE", "prod")], 1)]
#[case::web_identity(
    &[("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/w"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "{home}/token")], 2
)]
#[case::container(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/role")], 2)]
#[case::instance(&[], 4)]
#[tokio::test]
async fn keys_are_found_in_every_source(#[case] variables: &[(&str, &str)], #[case] requests: usize) {
    let home = home();
    let variables: Vec<(&str, String)> =
        variables.iter().map(|(name, value)| (*name, value.replace("{home}", home.path().to_str().unwrap()))).collect();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (ecr, cloud) = ecr(&variables, aws);
    assert_eq!(password(ecr.find(REGISTRY).await.unwrap()), PASSWORD);
    assert_eq!(cloud.asked.lock().unwrap().len(), requests, "{:?}", cloud.asked);
    let shown = format!("{ecr:?}");
    assert!(!shown.contains("canary") && !shown.contains(KEY), "{shown}");
}

#[tokio::test]
async fn all_registries_of_a_region_and_all_callers_share_one_token() {
    let (ecr, cloud) = ecr(&KEYS, aws);
    let other = REGISTRY.replace('1', "2");
    let all = (0..50).map(|n| ecr.find(if n % 2 == 0 { REGISTRY } else { &other }));
    for found in futures_util::future::join_all(all).await {
        assert_eq!(password(found.unwrap()), PASSWORD);
    }
    assert_eq!(*cloud.asked.lock().unwrap(), ["api.ecr.eu-west-2.amazonaws.com /"]);
    assert!(ecr.find("ghcr.io").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_renewed_at_most_once_per_minute() {
    let count = Mutex::new(0);
    let (ecr, cloud) = ecr(&KEYS, move |_| {
        let mut count = count.lock().unwrap();
        *count += 1;
        Some((200, token(&count.to_string())))
    });
    let first = ecr.find(REGISTRY).await.unwrap().unwrap();
    assert!(!ecr.forget(&first.id()), "too new");
    tokio::time::advance(Duration::from_mins(1)).await;
    assert!(ecr.forget(&first.id()));
    assert_eq!(password(ecr.find(REGISTRY).await.unwrap()), "2");
    assert!(!ecr.forget(&first.id()), "the token was replaced");
    tokio::time::advance(Duration::from_hours(6)).await;
    assert_eq!(password(ecr.find(REGISTRY).await.unwrap()), "3", "half of its lifetime is over");
    assert_eq!(cloud.asked.lock().unwrap().len(), 3);
}

#[rstest]
#[case::refused(
    Some((400, json!({
        "__type": "com.amazonaws#InvalidSignatureException",
        "message": "The Canonical String should have been 'x-amz-security-token:canary-77ab-session'",
    }))),
    "it answered with status 400 InvalidSignatureException"
)]
#[case::invalid_error_name(Some((403, json!({ "__type": "canary 77ab" }))), "it answered with status 403")]
#[case::unreachable(None, "no such server")]
#[case::no_token(Some((200, json!({ "authorizationData": [] }))), "its answer has no token")]
#[case::bad_token(
    Some((200, json!({ "authorizationData": [{ "authorizationToken": "canary-77ab" }] }))),
    "its answer has no token"
)]
#[tokio::test]
async fn failures_are_reported_without_secrets(#[case] answer: Option<(u16, Value)>, #[case] reason: &str) {
    let (ecr, _) = ecr(&KEYS, move |_| answer.as_ref().map(|(status, body)| (*status, body.to_string())));
    let error = ecr.find(REGISTRY).await.unwrap_err();
    let shown = format!("{error} {error:?} {ecr:?}");
    assert!(shown.contains(REGISTRY) && shown.contains(reason), "{shown}");
    assert!(!shown.contains("canary"), "{shown}");
}

#[tokio::test]
async fn missing_keys_are_reported() {
    let (ecr, _) = ecr(&[("AWS_EC2_METADATA_DISABLED", "true")], aws);
    let error = ecr.find(REGISTRY).await.unwrap_err().to_string();
    assert_eq!(error, format!("get a token for {REGISTRY} from AWS: this machine has no AWS keys"));
    let (ecr, _) =
        self::ecr(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/role")], |_| Some((403, "canary-77ab".to_owned())));
    let error = ecr.find(REGISTRY).await.unwrap_err().to_string();
    assert!(error.contains("the container's metadata: permission denied; the instance's metadata: permission denied"));
    assert!(!error.contains("canary"), "{error}");
}

#[tokio::test]
async fn the_public_registry_is_read_without_a_token_if_necessary() {
    let (refusing, cloud) = ecr(&KEYS, |_| Some((400, json!({ "__type": "AccessDeniedException" }).to_string())));
    assert!(refusing.find("public.ecr.aws").await.unwrap().is_none());
    assert!(refusing.find("public.ecr.aws").await.unwrap().is_none());
    assert_eq!(cloud.asked.lock().unwrap().len(), 1, "the failure is cached");
    let public = |request: &Request<Bytes>| {
        let is_public = request.uri() == "https://api.ecr-public.us-east-1.amazonaws.com/"
            && request.headers()["x-amz-target"] == "SpencerFrontendService.GetAuthorizationToken";
        let token = STANDARD.encode(format!("AWS:{PASSWORD}"));
        is_public.then(|| {
            (200, json!({ "authorizationData": { "authorizationToken": token, "expiresAt": 1.0 } }).to_string())
        })
    };
    let (willing, _) = ecr(&KEYS, public);
    assert_eq!(password(willing.find("public.ecr.aws").await.unwrap()), PASSWORD);
}

#[test]
fn a_token_is_renewed_after_half_of_its_lifetime() {
    let now = Duration::from_secs(1_000_000);
    let times = |ends: Value| {
        let token = STANDARD.encode("AWS:pw");
        let body = json!({ "authorizationData": [{ "authorizationToken": token, "expiresAt": ends }] }).to_string();
        let fresh = parse_token(body.as_bytes(), now).unwrap();
        (fresh.renew_after.as_secs(), fresh.lifetime.as_secs())
    };
    assert_eq!(times(json!(1_043_200.0)), (21_600, 43_200));
    assert_eq!(times(json!(1_003_600.5)), (1_800, 3_600));
    assert_eq!(times(json!(1e300)), (21_600, 43_200));
    assert_eq!(times(json!(-5)), (21_600, 43_200));
    assert_eq!(times(Value::Null), (21_600, 43_200));
    assert_eq!(times(json!(999_999)), (0, 0), "already expired: used once, then requested again");
}

#[tokio::test]
async fn a_configured_endpoint_receives_the_signed_request() {
    let server = MockServer::start().await;
    let address = server.address().to_string();
    let answer = ResponseTemplate::new(200).set_body_raw(token(PASSWORD), "application/x-amz-json-1.1");
    Mock::given(method("POST"))
        .and(path("/"))
        .and(body_string("{}"))
        .and(header("host", address.as_str()))
        .and(header("content-type", "application/x-amz-json-1.1"))
        .and(header("x-amz-target", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"))
        .and(header("x-amz-security-token", SESSION))
        .and(header_regex("x-amz-date", "^[0-9]{8}T[0-9]{6}Z$"))
        .and(header_regex(
            "authorization",
            &format!(
                "^AWS4-HMAC-SHA256 Credential={KEY}/[0-9]{{8}}/eu-west-2/ecr/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, Signature=[0-9a-f]{{64}}$"
            ),
        ))
        .respond_with(answer)
        .expect(1)
        .mount(&server)
        .await;
    let url = format!("{}/", server.uri());
    let variables =
        [KEYS[0], KEYS[1], KEYS[2], ("AWS_ENDPOINT_URL_ECR", url.as_str()), ("HTTP_PROXY", "http://192.0.2.1:1")];
    let ecr = Ecr::new(&environment(&variables));
    assert_eq!(password(ecr.find(REGISTRY).await.unwrap()), PASSWORD);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ecr = Ecr::new(&environment(&[KEYS[0], KEYS[1], ("AWS_ENDPOINT_URL_ECR", &format!("http://{closed}/"))]));
    let shown = format!("{:?} {ecr:?}", ecr.find(REGISTRY).await.unwrap_err());
    assert!(shown.contains("the request to 127.0.0.1 failed"), "{shown}");
    assert!(!shown.contains("canary"), "{shown}");
}
