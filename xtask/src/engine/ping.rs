//! Asks an engine whether it is there: `GET /_ping` by hand over a unix socket or TCP. No other call is made here.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    os::unix::net::UnixStream,
    time::Duration,
};

/// How long an engine may take for each step of the answer.
const TIMEOUT: Duration = Duration::from_secs(2);
const REQUEST: &[u8] = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n";
/// More than any status line; nobody makes us read on for ever.
const MOST_BYTES: u64 = 4096;

/// Whether the engine at `unix://…` or `tcp://…` answers; the error says why not.
pub(super) fn ping(host: &str) -> Result<(), String> {
    let reply = if let Some(path) = host.strip_prefix("unix://") {
        ask_unix(path)
    } else if let Some(address) = host.strip_prefix("tcp://") {
        ask_tcp(address)
    } else {
        return Err("only unix:// and tcp:// addresses are understood".into());
    };
    let reply = reply.map_err(|error| format!("does not answer: {error}"))?;
    match status(&reply) {
        Some(200) => Ok(()),
        Some(other) => Err(format!("answers its ping with status {other}")),
        None => Err("answers, but not in HTTP".into()),
    }
}

fn ask_unix(path: &str) -> io::Result<Vec<u8>> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    ask(stream)
}

fn ask_tcp(address: &str) -> io::Result<Vec<u8>> {
    let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    ask(stream)
}

/// Sends the question and reads the first line of the answer: the end of the answer may never come.
fn ask(mut stream: impl Read + Write) -> io::Result<Vec<u8>> {
    stream.write_all(REQUEST)?;
    let mut line = Vec::new();
    BufReader::new(stream.take(MOST_BYTES)).read_until(b'\n', &mut line)?;
    Ok(line)
}

/// The status code in an HTTP/1 status line.
fn status(line: &[u8]) -> Option<u16> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.next()?.strip_prefix("HTTP/1.")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line() {
        for (name, line, expected) in [
            ("an engine that is there", "HTTP/1.1 200 OK\r", Some(200)),
            ("the older protocol", "HTTP/1.0 200 OK", Some(200)),
            ("without a reason", "HTTP/1.1 503", Some(503)),
            ("not a number", "HTTP/1.1 fine", None),
            ("another protocol", "SSH-2.0-OpenSSH_9.2", None),
            ("nothing", "", None),
        ] {
            assert_eq!(status(line.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn only_a_200_over_a_socket_counts_as_an_answer() {
        for (name, reply, expected) in [
            ("there", "HTTP/1.1 200 OK\r\n\r\nOK", Ok(())),
            ("starting", "HTTP/1.1 500 Oops\r\n\r\n", Err("answers its ping with status 500")),
            ("closes", "", Err("answers, but not in HTTP")),
        ] {
            let path = std::env::temp_dir().join(format!("xtask-ping-{}-{name}", std::process::id()));
            let listener = UnixListener::bind(&path).expect("a fresh name");
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("the ping connects");
                let mut request = vec![0; REQUEST.len()];
                stream.read_exact(&mut request).expect("the whole request");
                stream.write_all(reply.as_bytes()).expect("the client reads");
                request
            });
            let outcome = ping(&format!("unix://{}", path.display()));
            assert_eq!(outcome, expected.map_err(str::to_owned), "{name}");
            assert_eq!(server.join().expect("no panic"), REQUEST, "{name}");
            std::fs::remove_file(path).expect("it is ours");
        }
    }

    #[test]
    fn an_address_that_cannot_be_asked_says_so() {
        let refused = ping("unix:///no/such/socket").expect_err("there is nothing");
        assert!(refused.starts_with("does not answer: "), "{refused}");
        assert_eq!(ping("ssh://host"), Err("only unix:// and tcp:// addresses are understood".into()));
    }
}
