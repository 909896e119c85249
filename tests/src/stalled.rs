//! A registry that accepts connections and never answers. Counts what it is asked, and which of it was given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

/// Ends with its runtime.
#[derive(Debug)]
pub struct StalledRegistry {
    host: String,
    asked: Arc<AtomicUsize>,
    given_up: Arc<AtomicUsize>,
}

impl StalledRegistry {
    /// On loopback.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let host = listener.local_addr().expect("it is bound").to_string();
        let (asked, given_up) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (asked.clone(), given_up.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(keep(socket, counts.0.clone(), counts.1.clone()));
            }
        });
        Self { host, asked, given_up }
    }

    /// Host and port.
    pub fn host(&self) -> String {
        self.host.clone()
    }

    /// How many requests came, and how many connections were closed by the other side.
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
