//! A question to a container that it must answer to count as healthy. Asked from where this program runs,
//! at the address of the container, or of the one whose network it shares.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::labels::Probe;
use imagewatch_engine::Engine;

const LIMIT: Duration = Duration::from_secs(2);
/// One that is busy for a moment is not one that never answers.
const TRIES: u32 = 3;
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Whether the container answers now.
pub(super) async fn answers(engine: &dyn Engine, probe: &Probe, inspection: &Value) -> bool {
    let Some(address) = network_holder(engine, inspection).await.as_ref().and_then(address) else { return false };
    let asked = async {
        match probe {
            Probe::Tcp(port) => TcpStream::connect((address, *port)).await.is_ok(),
            Probe::Http(port, path) => {
                let address = SocketAddr::new(address, *port);
                let Ok(stream) = TcpStream::connect(address).await else { return false };
                status(stream, address, path).await.is_some_and(|code| (200..400).contains(&code))
            }
        }
    };
    timeout(LIMIT, asked).await.unwrap_or(false)
}

/// Whether it answers at one of several tries.
pub(super) async fn answers_some_time(engine: &dyn Engine, probe: &Probe, inspection: &Value) -> bool {
    for _ in 1..TRIES {
        if answers(engine, probe, inspection).await {
            return true;
        }
        sleep(AGAIN_AFTER).await;
    }
    answers(engine, probe, inspection).await
}

/// Whether there is anywhere to ask a running container. Of one whose network is another's that does not run it is not
/// known.
pub(super) async fn can_be_asked(engine: &dyn Engine, inspection: &Value) -> bool {
    let holder = network_holder(engine, inspection).await;
    holder.is_none_or(|holder| holder["State"]["Running"] != true || address(&holder).is_some())
}

/// The container itself, or the one whose network it shares, if that is there.
async fn network_holder(engine: &dyn Engine, inspection: &Value) -> Option<Value> {
    match inspection["HostConfig"]["NetworkMode"].as_str().and_then(|mode| mode.strip_prefix("container:")) {
        Some(parent) => engine.inspect_container(parent).await.ok(),
        None => Some(inspection.clone()),
    }
}

/// The container's address on the first network where it has one; loopback where it shares the machine's.
fn address(inspection: &Value) -> Option<IpAddr> {
    if inspection["HostConfig"]["NetworkMode"] == "host" {
        return Some(IpAddr::from([127, 0, 0, 1]));
    }
    let networks =
        || inspection["NetworkSettings"]["Networks"].as_object().into_iter().flat_map(serde_json::Map::values);
    let first = |field: &str| networks().find_map(|network| network[field].as_str()?.parse().ok());
    first("IPAddress").or_else(|| first("GlobalIPv6Address"))
}

/// The status of a plain `GET` over `stream`, which leads to `address`. Nothing but the first line is read.
async fn status(mut stream: impl AsyncRead + AsyncWrite + Unpin, address: SocketAddr, path: &str) -> Option<u16> {
    // An address of IPv6 is in brackets there.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nUser-Agent: imagewatch\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.ok()?;
    std::str::from_utf8(&head).ok()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wiremock::matchers::path;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use imagewatch_engine::testing::MemoryEngine;

    #[tokio::test]
    async fn a_probe_is_answered_by_an_open_port_or_a_good_status() {
        let server = MockServer::start().await;
        for (at, status) in [("/good", 204), ("/moved", 302), ("/bad", 500)] {
            Mock::given(path(at)).respond_with(ResponseTemplate::new(status)).mount(&server).await;
        }
        let port = server.address().port();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let inspection = json!({ "HostConfig": { "NetworkMode": "host" } });
        for (probe, expected) in [
            (Probe::Tcp(port), true),
            (Probe::Tcp(closed), false),
            (Probe::Http(port, "/good".to_owned()), true),
            (Probe::Http(port, "/moved".to_owned()), true),
            (Probe::Http(port, "/bad".to_owned()), false),
        ] {
            assert_eq!(answers(&MemoryEngine::new(), &probe, &inspection).await, expected, "{probe:?}");
        }
    }

    #[tokio::test]
    async fn one_that_shares_anothers_network_is_asked_there_and_one_without_any_cannot_be() {
        let engine = MemoryEngine::new();
        engine.add_image("example.com/app:1", &json!({ "Id": "app" }));
        let on = |mode: &str| json!({ "HostConfig": { "NetworkMode": mode } });
        for (name, mode, running) in
            [("on-host", "host", true), ("off", "none", true), ("resting", "front", false), ("fresh", "front", true)]
        {
            engine.add_container(name, "example.com/app:1", on(mode), running).await;
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let probe = Probe::Tcp(listener.local_addr().expect("bound").port());
        assert!(answers_some_time(&engine, &probe, &on("container:on-host")).await);
        assert!(!answers(&engine, &probe, &on("container:gone")).await);
        for (mode, expected) in [
            ("container:on-host", true),
            ("container:off", false),
            ("container:resting", true),
            ("container:gone", true),
        ] {
            assert_eq!(can_be_asked(&engine, &on(mode)).await, expected, "{mode}");
        }
        for (name, expected) in [("on-host", true), ("off", false), ("resting", true), ("fresh", false)] {
            assert_eq!(can_be_asked(&engine, &engine.inspections()[name]).await, expected, "{name}");
        }
    }

    #[tokio::test]
    async fn an_address_of_ipv6_is_named_in_brackets() {
        let address: SocketAddr = "[::1]:8080".parse().expect("an address");
        // No machine has to have one.
        let (ours, mut stream) = tokio::io::duplex(4096);
        let serve = async {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.expect("a request");
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("an answer");
            String::from_utf8(request[..length].to_vec()).expect("text")
        };
        let (code, request) = tokio::join!(status(ours, address, "/"), serve);
        assert_eq!(code, Some(204));
        assert!(request.contains(&format!("Host: [::1]:{}\r\n", address.port())), "{request}");
    }

    #[test]
    fn a_container_is_asked_where_it_can_be_reached() {
        let networks = |address: &str| json!({ "NetworkSettings": { "Networks": { "a": { "IPAddress": "" }, "b": { "IPAddress": address } } } });
        assert_eq!(address(&networks("10.0.0.9")), "10.0.0.9".parse().ok());
        assert_eq!(address(&networks("")), None);
        let only_six =
            json!({ "NetworkSettings": { "Networks": { "a": { "IPAddress": "", "GlobalIPv6Address": "fd00::9" } } } });
        assert_eq!(address(&only_six), "fd00::9".parse().ok());
    }
}
