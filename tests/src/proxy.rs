//! An HTTP/1.1 reverse proxy on loopback, in front of the engine's socket or of a registry. It counts requests, and can
//! delay, hold, cut, refuse or change them. It does not record the probe requests with which imagewatch tests its
//! permissions on objects that do not exist; the filter applies to them. Without a rule, requests and responses pass
//! unchanged. Upgraded connections (exec, attach) are not supported.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, io};

use futures_util::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::USER_AGENT;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use imagewatch_engine::permission::ABSENT;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// A running proxy. Dropping it closes it permanently. It lives in the runtime of the test that started it.
#[derive(Debug)]
pub struct Proxy {
    address: Address,
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
    /// Contains the Unix socket.
    _folder: Option<TempDir>,
}

#[derive(Debug, Clone)]
enum Address {
    Unix(PathBuf),
    Tcp(String),
}

#[derive(Debug)]
struct Shared {
    upstream: Address,
    connections: AtomicUsize,
    requests: Mutex<Vec<Seen>>,
    held: watch::Sender<Vec<String>>,
    faults: Mutex<Vec<Planned>>,
    filter: Mutex<Option<Filter>>,
    rules: Mutex<Vec<Rule>>,
    latency_ms: AtomicU64,
}

/// An access filter: which requests pass, and how the proxy answers the others.
#[derive(Debug, Clone, Copy)]
pub struct Filter {
    /// Whether a request passes. The arguments are its method and its path, without version and query.
    pub allows: fn(&str, &str) -> bool,
    /// The status of a refusal.
    pub status: u16,
    /// The body of a refusal.
    pub body: &'static str,
}

impl Filter {
    /// A filter that refuses like `HAProxy`, on which most socket proxies are based.
    pub fn with_page(allows: fn(&str, &str) -> bool) -> Self {
        let body = "<html><body><h1>403 Forbidden</h1>\nRequest forbidden by administrative rules.\n</body></html>\n";
        Self { allows, status: 403, body }
    }
}

/// What happens to every matching request.
#[derive(Debug)]
struct Rule {
    /// Text that `METHOD /path?query` must contain.
    pattern: String,
    /// Text that the `User-Agent` must start with.
    program: String,
    change: Change,
}

/// The effect of a [`Rule`].
#[derive(Debug, Clone)]
enum Change {
    /// The proxy answers with this status and does not forward the request.
    Answer(StatusCode),
    /// The proxy forwards the request with another path.
    Path(String),
    /// The answer is sent in pieces of this many bytes, with this pause between them.
    Pace(usize, Duration),
}

/// A request that arrived.
#[derive(Debug)]
struct Seen {
    /// `METHOD /path?query`.
    line: String,
    user_agent: String,
    /// The number of body bytes of the answer that passed so far.
    bytes: Arc<AtomicU64>,
}

/// A fault for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The proxy answers with status 500 and does not forward the request.
    Refuse,
    /// The proxy forwards the request, and closes the connection when the answer arrives.
    SwallowAnswer,
    /// The proxy forwards the request after this delay.
    Delay(Duration),
    /// The proxy closes the connection and does not forward the request.
    Drop,
}

/// A fault that has not happened yet.
#[derive(Debug)]
struct Planned {
    pattern: String,
    /// The number of matching requests that pass first.
    skipped: usize,
    fault: Fault,
}

/// Matching requests are held until this value is dropped.
#[derive(Debug)]
pub struct Hold {
    shared: Arc<Shared>,
    pattern: String,
}

impl Proxy {
    /// Starts a proxy in front of an engine, on a Unix socket. `docker_host` is `unix:///…`.
    pub async fn to_engine(docker_host: &str) -> Self {
        let socket = docker_host.strip_prefix("unix://");
        let socket = socket.unwrap_or_else(|| panic!("DOCKER_HOST={docker_host} is not a unix:// address"));
        let folder = TempDir::new().expect("the temp folder is writable");
        let address = Address::Unix(folder.path().join("engine.sock"));
        Self::start(address, Address::Unix(socket.into()), Some(folder)).await
    }

    /// Starts a proxy in front of an engine, on its own TCP port. The address is `tcp://…`.
    pub async fn to_engine_over_tcp(docker_host: &str) -> Self {
        let socket = docker_host.strip_prefix("unix://");
        let socket = socket.unwrap_or_else(|| panic!("DOCKER_HOST={docker_host} is not a unix:// address"));
        Self::start(Address::Tcp("127.0.0.1:0".to_owned()), Address::Unix(socket.into()), None).await
    }

    /// Starts a proxy in front of a registry at `host` (`127.0.0.1:5000`), on its own port.
    pub async fn to_registry(host: &str) -> Self {
        Self::to_registry_at("127.0.0.1:0", host).await
    }

    /// Starts a proxy in front of a registry at `address`, such as `10.0.0.1:0`, where a private engine reaches it.
    pub async fn to_registry_at(address: &str, host: &str) -> Self {
        Self::start(Address::Tcp(address.to_owned()), Address::Tcp(host.to_owned()), None).await
    }

    async fn start(address: Address, upstream: Address, folder: Option<TempDir>) -> Self {
        let shared = Shared {
            upstream,
            connections: AtomicUsize::new(0),
            requests: Mutex::default(),
            held: watch::Sender::new(Vec::new()),
            faults: Mutex::default(),
            rules: Mutex::default(),
            filter: Mutex::default(),
            latency_ms: AtomicU64::new(0),
        };
        let mut proxy = Self { address, shared: Arc::new(shared), task: Mutex::new(None), _folder: folder };
        proxy.address = proxy.listen().await;
        proxy
    }

    /// The address that replaces the upstream's: `unix:///…` or `tcp://…` for `DOCKER_HOST`, or `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        match &self.address {
            Address::Unix(path) => format!("unix://{}", path.display()),
            Address::Tcp(host) if matches!(self.shared.upstream, Address::Unix(_)) => format!("tcp://{host}"),
            Address::Tcp(host) => host.clone(),
        }
    }

    /// Closes every connection, even in the middle of a response, and refuses new ones.
    pub async fn cut(&self) {
        let task = self.task.lock().expect("no holder panics").take();
        if let Some(task) = task {
            task.abort();
            // The listener is closed only when the task has ended.
            let _ = task.await;
        }
    }

    /// Ends a [`cut`](Self::cut). The address stays the same.
    pub async fn heal(&self) {
        self.cut().await;
        self.listen().await;
    }

    /// Holds every request whose `METHOD /path?query` contains `pattern`, until the [`Hold`] is dropped. A held request
    /// is counted when it arrives, so a test can wait for it.
    pub fn hold(&self, pattern: &str) -> Hold {
        self.shared.held.send_modify(|patterns| patterns.push(pattern.to_owned()));
        Hold { shared: Arc::clone(&self.shared), pattern: pattern.to_owned() }
    }

    /// Applies `fault` to one later request. It is the request after the first `skipped` requests whose `METHOD
    /// /path?query` contains `pattern`.
    pub fn fail_one(&self, pattern: &str, skipped: usize, fault: Fault) {
        let planned = Planned { pattern: pattern.to_owned(), skipped, fault };
        self.shared.faults.lock().expect("no holder panics").push(planned);
    }

    /// Answers every later request whose `METHOD /path?query` contains `pattern` with `status`.
    pub fn answer_all(&self, pattern: &str, status: StatusCode) {
        self.add_rule(pattern, "", Change::Answer(status));
    }

    /// Forwards every later request for `path` to the path `other`, if its `User-Agent` starts with `program`.
    pub fn redirect_all(&self, path: &str, program: &str, other: &str) {
        self.add_rule(&format!(" {path}"), program, Change::Path(other.to_owned()));
    }

    /// Sends the answer to every later request whose `METHOD /path?query` contains `pattern` in pieces of `size` bytes,
    /// with `pause` between them.
    pub fn pace_all(&self, pattern: &str, size: usize, pause: Duration) {
        self.add_rule(pattern, "", Change::Pace(size, pause));
    }

    /// Removes all rules.
    pub fn clear_rules(&self) {
        self.shared.rules.lock().expect("no holder panics").clear();
    }

    fn add_rule(&self, pattern: &str, program: &str, change: Change) {
        let rule = Rule { pattern: pattern.to_owned(), program: program.to_owned(), change };
        self.shared.rules.lock().expect("no holder panics").push(rule);
    }

    /// Lets only requests pass that `filter` allows.
    pub fn set_filter(&self, filter: Filter) {
        *self.shared.filter.lock().expect("no holder panics") = Some(filter);
    }

    /// The number of faults that have not happened yet.
    pub fn faults_left(&self) -> usize {
        self.shared.faults.lock().expect("no holder panics").len()
    }

    /// Delays every later request by `latency`.
    pub fn set_latency(&self, latency: Duration) {
        let latency_ms = u64::try_from(latency.as_millis()).expect("a test's latency is short");
        self.shared.latency_ms.store(latency_ms, Ordering::Relaxed);
    }

    /// The number of connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The requests so far, each as `METHOD /path?query`, in order.
    pub fn requests(&self) -> Vec<String> {
        self.requests_of("")
    }

    /// The [`requests`](Self::requests) whose `User-Agent` starts with `program`, such as `imagewatch/`.
    pub fn requests_of(&self, program: &str) -> Vec<String> {
        let requests = self.shared.requests.lock().expect("no holder panics");
        let of_program = requests.iter().filter(|request| request.user_agent.starts_with(program));
        of_program.map(|request| request.line.clone()).collect()
    }

    /// The number of body bytes so far in answers to programs whose `User-Agent` starts with `program`.
    pub fn bytes_to(&self, program: &str) -> u64 {
        let requests = self.shared.requests.lock().expect("no holder panics");
        let of_program = requests.iter().filter(|request| request.user_agent.starts_with(program));
        of_program.map(|request| request.bytes.load(Ordering::Relaxed)).sum()
    }

    /// The number of [`requests`](Self::requests) that contain `pattern`.
    pub fn count(&self, pattern: &str) -> usize {
        self.requests().iter().filter(|request| request.contains(pattern)).count()
    }

    /// Binds the address and returns it with its port.
    async fn listen(&self) -> Address {
        let (listener, bound) = Listener::bind(&self.address).await.unwrap_or_else(|error| {
            panic!("failed to listen on {}: {error}", self.host());
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&self.shared)));
        *self.task.lock().expect("no holder panics") = Some(task);
        bound
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().expect("no holder panics").take() {
            task.abort();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.held.send_modify(|patterns| {
            let index = patterns.iter().position(|pattern| *pattern == self.pattern);
            patterns.remove(index.expect("a pattern stays while it is held"));
        });
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    async fn bind(address: &Address) -> io::Result<(Self, Address)> {
        Ok(match address {
            Address::Unix(path) => {
                remove_stale_socket(path)?;
                (Self::Unix(UnixListener::bind(path)?), address.clone())
            }
            Address::Tcp(host) => {
                let listener = TcpListener::bind(host).await?;
                let bound = listener.local_addr()?.to_string();
                (Self::Tcp(listener), Address::Tcp(bound))
            }
        })
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// A closed listener leaves its socket file. The file must be removed before the next bind.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Runs until the task is aborted. All its connections end at the same time.
async fn accept(listener: Listener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = listener.accept().await.expect("a listener on loopback accepts");
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| forward(request, Arc::clone(&shared)));
        let server = hyper::server::conn::http1::Builder::new();
        connections.spawn(server.serve_connection(TokioIo::new(stream), service));
        while connections.try_join_next().is_some() {}
    }
}

/// The upstream's response, complete or in pieces, or an answer of the proxy.
type AnyBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// Forwards one request. An error closes the client's connection, as a dead upstream does.
async fn forward(
    mut request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<AnyBody>, Box<dyn Error + Send + Sync>> {
    let line = format!("{} {}", request.method(), request.uri());
    let user_agent =
        request.headers().get(USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let user_agent = user_agent.unwrap_or_default();
    let change = shared.change_of(&line, &user_agent);
    let bytes = Arc::new(AtomicU64::new(0));
    let seen = Seen { line: line.clone(), user_agent, bytes: Arc::clone(&bytes) };
    let is_probe = line.contains(ABSENT);
    if !is_probe {
        shared.requests.lock().expect("no holder panics").push(seen);
    }
    sleep(Duration::from_millis(shared.latency_ms.load(Ordering::Relaxed))).await;
    let is_free = |patterns: &Vec<String>| is_probe || !patterns.iter().any(|pattern| line.contains(pattern));
    shared.held.subscribe().wait_for(is_free).await?;
    let filter = *shared.filter.lock().expect("no holder panics");
    if let Some(filter) =
        filter.filter(|filter| !(filter.allows)(request.method().as_str(), unversioned(request.uri().path())))
    {
        return Ok(answer(filter.status, filter.body));
    }
    let fault = if is_probe { None } else { shared.take_fault(&line) };
    match fault {
        Some(Fault::Refuse) => return Ok(answer(500, r#"{"message":"the proxy refuses"}"#)),
        Some(Fault::Drop) => return Err("dropped".into()),
        Some(Fault::Delay(delay)) => sleep(delay).await,
        Some(Fault::SwallowAnswer) | None => {}
    }
    match &change {
        Some(Change::Answer(status)) => return Ok(answer(status.as_u16(), r#"{"message":"the proxy refuses"}"#)),
        Some(Change::Path(path)) => *request.uri_mut() = path.parse()?,
        Some(Change::Pace(..)) | None => {}
    }
    let upstream: Box<dyn Stream> = match &shared.upstream {
        Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Address::Tcp(host) => Box::new(TcpStream::connect(host).await?),
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(upstream)).await?;
    // This task ends when the sender and the body of the response are dropped.
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    if fault == Some(Fault::SwallowAnswer) {
        return Err("the answer is swallowed".into());
    }
    let response = match change {
        Some(Change::Pace(size, pause)) => in_pieces(response, size, pause).await?,
        _ => response.map(BodyExt::boxed_unsync),
    };
    Ok(response.map(|body| counted(body, bytes)))
}

/// Returns the same body. `bytes` grows with each frame that passes.
fn counted(body: AnyBody, bytes: Arc<AtomicU64>) -> AnyBody {
    body.map_frame(move |frame| {
        let length = frame.data_ref().map_or(0, Bytes::len);
        bytes.fetch_add(u64::try_from(length).expect("a frame is short"), Ordering::Relaxed);
        frame
    })
    .boxed_unsync()
}

fn answer(status: u16, body: &str) -> Response<AnyBody> {
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).expect("a test's status");
    response
}

/// Returns `/containers/json` for `/v1.41/containers/json`.
fn unversioned(path: &str) -> &str {
    let rest = path.strip_prefix("/v1.").and_then(|rest| rest.find('/').map(|at| &rest[at..]));
    rest.unwrap_or(path)
}

async fn in_pieces(
    response: Response<Incoming>,
    size: usize,
    pause: Duration,
) -> Result<Response<AnyBody>, Box<dyn Error + Send + Sync>> {
    let (head, body) = response.into_parts();
    let whole = body.collect().await?.to_bytes();
    let pieces: Vec<Bytes> = whole.chunks(size).map(Bytes::copy_from_slice).collect();
    let paced = stream::iter(pieces).then(move |piece| async move {
        sleep(pause).await;
        Ok(Frame::data(piece))
    });
    Ok(Response::from_parts(head, StreamBody::new(paced).boxed_unsync()))
}

impl Shared {
    fn change_of(&self, line: &str, user_agent: &str) -> Option<Change> {
        let rules = self.rules.lock().expect("no holder panics");
        let is_meant = |rule: &&Rule| line.contains(&rule.pattern) && user_agent.starts_with(&rule.program);
        rules.iter().find(is_meant).map(|rule| rule.change.clone())
    }

    fn take_fault(&self, line: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().expect("no holder panics");
        let index = faults.iter().position(|planned| line.contains(&planned.pattern))?;
        if faults[index].skipped > 0 {
            faults[index].skipped -= 1;
            return None;
        }
        Some(faults.remove(index).fault)
    }
}
