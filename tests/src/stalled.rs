//! A registry that accepts connections and never answers. It counts the requests and the connections that clients gave
//! up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

/// A running server. It ends with the runtime.
#[derive(Debug)]
pub struct StalledRegistry {
    host: String,
    asked: Arc<AtomicUsize>,
    given_up: Arc<AtomicUsize>,
}

impl StalledRegistry {
    /// Starts the server on loopback.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let host = listener.local_addr().expect("a bound socket has an address").to_string();
        let (asked, given_up) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (asked.clone(), given_up.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(keep(socket, counts.0.clone(), counts.1.clone()));
            }
        });
        Self { host, asked, given_up }
    }

    /// The host and the port.
    pub fn host(&self) -> String {
        self.host.clone()
    }

    /// The number of requests, and the number of connections that the client closed.
    pub fn counts(&self) -> (usize, usize) {
        (self.asked.load(Ordering::Relaxed), self.given_up.load(Ordering::Relaxed))
    }
}

async fn keep(mut socket: TcpStream, asked: Arc<AtomicUsize>, given_up: Arc<AtomicUsize>) {
    while socket.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
        asked.fetch_add(1, Ordering::Relaxed);
    }
    given_up.fetch_add(1, Ordering::Relaxed);
}
