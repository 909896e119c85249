//! The admin API's connections: their number, their timeouts, and the host names that they may use.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use secrecy::SecretString;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Control, error, router};

/// How long requests in progress may take after the server is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How long a client may take to send the head of a request. Also how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of open connections. Further connections wait until one closes.
const MAX_CONNECTIONS: usize = 128;

/// Pause before the next attempt when accepting a connection fails.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves `listener` until `cancel` is cancelled. Then gives requests in progress up to 5 s to finish.
///
/// # Errors
/// The listener has no local address.
pub async fn serve(
    listener: TcpListener,
    token: Option<SecretString>,
    control: Arc<dyn Control>,
    cancel: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let router = router(token, control).layer(axum::middleware::from_fn_with_state(address, require_host));
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, &permits) => match accepted {
                Ok((stream, permit)) => {
                    connections.spawn(serve_connection(stream, router.clone(), cancel.clone(), permit));
                }
                Err(error) => {
                    warn!("failed to accept a connection to the admin API: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    let all_ended = async { while connections.join_next().await.is_some() {} };
    // Connections that are still open now are dropped with the set.
    let _ = timeout(GRACE, all_ended).await;
    Ok(())
}

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn serve_connection(stream: TcpStream, router: Router, cancel: CancellationToken, _permit: OwnedSemaphorePermit) {
    let mut http = hyper::server::conn::http1::Builder::new();
    // The timeout starts after each response, so it limits idle connections too.
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // The connection ended. An error of the client needs no report.
        _ = &mut connection => return,
        () = cancel.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// Refuses a request if its `Host` header does not name this server. A page of another site could have sent it (DNS
/// rebinding).
async fn require_host(State(address): State<SocketAddr>, request: Request, next: Next) -> Response {
    if has_own_host(request.headers(), address) {
        return next.run(request).await;
    }
    let known = if address.ip().to_canonical().is_loopback() { "" } else { ", or a name without a dot" };
    error(
        StatusCode::MISDIRECTED_REQUEST,
        format!("the Host header does not name this server: use an IP address, localhost{known}"),
    )
}

/// An IP address and `localhost` cannot be redirected by DNS. In a container network, other machines use the name of
/// the service. Such a name has no dot, and public name servers do not resolve it.
fn has_own_host(headers: &HeaderMap, address: SocketAddr) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Some(host) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else { return false };
    if host.as_str().contains('@') {
        return false;
    }
    let name = host.host().trim_end_matches('.').to_ascii_lowercase();
    let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let is_local = name == "localhost" || name.ends_with(".localhost");
    let is_service = !address.ip().to_canonical().is_loopback() && !name.is_empty() && !name.contains('.');
    is_address || is_local || is_service
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const LOOPBACK: &str = "127.0.0.1:9000";
    const EVERYWHERE: &str = "0.0.0.0:9000";

    #[rstest]
    #[case::address(LOOPBACK, &["127.0.0.1:9000"], true)]
    #[case::address_v6(LOOPBACK, &["[::1]:9000"], true)]
    #[case::localhost(LOOPBACK, &["localhost:1234"], true)]
    #[case::localhost_in_capitals(LOOPBACK, &["LocalHost"], true)]
    #[case::rebound_name(LOOPBACK, &["evil.example:9000"], false)]
    #[case::rebound_name_elsewhere(EVERYWHERE, &["evil.example:9000"], false)]
    #[case::name_that_starts_with_localhost(LOOPBACK, &["localhost.evil.example"], false)]
    #[case::name_that_starts_with_an_address(LOOPBACK, &["127.0.0.1.evil.example"], false)]
    #[case::user(LOOPBACK, &["localhost@evil.example"], false)]
    #[case::user_before(LOOPBACK, &["evil.example@localhost"], false)]
    #[case::service_name(EVERYWHERE, &["imagewatch:9000"], true)]
    #[case::service_name_on_loopback(LOOPBACK, &["imagewatch:9000"], false)]
    #[case::none(LOOPBACK, &[], false)]
    #[case::empty(EVERYWHERE, &[""], false)]
    #[case::two(LOOPBACK, &["localhost", "evil.example"], false)]
    fn s11_host_header_must_name_this_server(#[case] address: &str, #[case] hosts: &[&str], #[case] is_own: bool) {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, host.parse().expect("a value"));
        }
        assert_eq!(has_own_host(&headers, address.parse().expect("an address")), is_own);
    }
}
