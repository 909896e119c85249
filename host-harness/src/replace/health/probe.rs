//! A question to a container that it must answer to count as healthy. Asked from where this program runs,
//! at the container's own address.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::replace::labels::Probe;

const LIMIT: Duration = Duration::from_secs(2);

/// Whether the container answers now.
pub(super) async fn answers(probe: &Probe, inspection: &Value) -> bool {
    let Some(address) = address(inspection) else { return false };
    let asked = async {
        match probe {
            Probe::Tcp(port) => TcpStream::connect((address, *port)).await.is_ok(),
            Probe::Http(port, path) => {
                status(address, *port, path).await.is_some_and(|code| (200..400).contains(&code))
            }
        }
    };
    timeout(LIMIT, asked).await.unwrap_or(false)
}

/// The container's address on the first network where it has one; loopback where it shares the machine's.
fn address(inspection: &Value) -> Option<IpAddr> {
    if inspection["HostConfig"]["NetworkMode"] == "host" {
        return Some(IpAddr::from([127, 0, 0, 1]));
    }
    let networks = inspection["NetworkSettings"]["Networks"].as_object()?;
    networks.values().find_map(|network| network["IPAddress"].as_str()?.parse().ok())
}

/// The status of a plain `GET`. Nothing but the first line is read.
async fn status(address: IpAddr, port: u16, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect((address, port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}:{port}\r\nUser-Agent: imagewatch\r\n\r\n");
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
            assert_eq!(answers(&probe, &inspection).await, expected, "{probe:?}");
        }
    }

    #[test]
    fn a_container_is_asked_where_it_can_be_reached() {
        let networks = |address: &str| json!({ "NetworkSettings": { "Networks": { "a": { "IPAddress": "" }, "b": { "IPAddress": address } } } });
        assert_eq!(address(&networks("10.0.0.9")), "10.0.0.9".parse().ok());
        assert_eq!(address(&networks("")), None);
    }
}
