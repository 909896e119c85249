//! The AWS library's access to the machine: selected environment variables, small files, and HTTP with limits. Errors
//! contain nothing of requests and answers.

use std::collections::HashMap;
use std::error::Error as _;
use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use reqsign_core::{Context, Env, Error, FileRead, HttpSend, Result};
use reqwest::{Client, NoProxy, Proxy, redirect};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use secrecy::{ExposeSecret, SecretString};

use crate::credentials::environment::Environment;
use crate::credentials::file::read_small;

/// The time limit of a request to AWS. AWS normally answers within two seconds.
const LIMIT: Duration = Duration::from_secs(10);
/// The time limit of a request to a metadata service. Such a service is close, or it does not exist.
const METADATA_LIMIT: Duration = Duration::from_secs(2);
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// The context for the AWS library.
pub(super) fn build_context(environment: &Environment) -> Context {
    let wire = Wire::new(environment);
    Context::new().with_file_read(Files).with_env(Variables::new(environment)).with_http_send(wire)
}

/// The `AWS_…` variables and the home folder.
#[derive(Debug)]
pub(super) struct Variables {
    aws: Environment,
    home: Option<PathBuf>,
}

impl Variables {
    pub(super) fn new(environment: &Environment) -> Self {
        let aws = environment.filtered(|name| name.starts_with("AWS_"));
        Self { aws, home: environment.value("HOME").map(PathBuf::from) }
    }
}

impl Env for Variables {
    fn var(&self, key: &str) -> Option<String> {
        self.aws.value(key).map(str::to_owned)
    }

    fn vars(&self) -> HashMap<String, String> {
        self.aws.with_prefix("").map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
    }

    fn home_dir(&self) -> Option<PathBuf> {
        self.home.clone()
    }
}

/// Reads configuration and token files.
#[derive(Debug)]
pub(super) struct Files;

impl FileRead for Files {
    fn file_read(&self, path: &str) -> impl Future<Output = Result<Vec<u8>>> {
        let path = Path::new(path);
        let metadata = path.metadata().map_err(|error| error.to_string());
        let bytes = metadata.and_then(|metadata| read_small(path, &metadata));
        ready(bytes.map(|bytes| bytes.to_vec()).map_err(Error::config_invalid))
    }
}

/// An HTTP client that is created on first use, because most machines do not need it.
#[derive(Debug)]
struct Wire {
    /// The proxy for AWS. Requests to metadata services use no proxy.
    proxy: Option<SecretString>,
    no_proxy: Option<String>,
    client: OnceLock<Client>,
}

impl Wire {
    fn new(environment: &Environment) -> Self {
        let value = |names: [&str; 2]| names.iter().find_map(|name| environment.value(name));
        let proxy = value(["HTTPS_PROXY", "https_proxy"]).map(SecretString::from);
        Self { proxy, no_proxy: value(["NO_PROXY", "no_proxy"]).map(str::to_owned), client: OnceLock::new() }
    }

    fn client(&self) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = self.open()?;
        Ok(self.client.get_or_init(|| client))
    }

    fn open(&self) -> Result<Client> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(BuilderVerifierExt::with_platform_verifier)
            .map_err(|_| Error::unexpected("TLS could not be set up"))?
            .with_no_client_auth();
        let mut builder =
            Client::builder().tls_backend_preconfigured(tls).redirect(redirect::Policy::none()).no_proxy();
        if let Some(proxy) = &self.proxy {
            let proxy = Proxy::https(proxy.expose_secret())
                .map_err(|_| Error::config_invalid("HTTPS_PROXY is not the URL of a proxy"))?;
            let no_proxy = self.no_proxy.as_deref().and_then(NoProxy::from_string);
            builder = builder.proxy(proxy.no_proxy(no_proxy));
        }
        builder.build().map_err(|_| Error::unexpected("the HTTP client could not be set up"))
    }
}

impl HttpSend for Wire {
    async fn http_send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let is_metadata = request.uri().scheme_str() == Some("http");
        let limit = if is_metadata { METADATA_LIMIT } else { LIMIT };
        let host = request.uri().host().unwrap_or_default().to_owned();
        let request =
            reqwest::Request::try_from(request).map_err(|_| Error::request_invalid("the request is not valid"))?;
        let exchange = async {
            let failed = |error: reqwest::Error| Error::unexpected(broken(&host, &error));
            let mut response = self.client()?.execute(request).await.map_err(failed)?;
            let mut body = BytesMut::new();
            while let Some(chunk) = response.chunk().await.map_err(failed)? {
                if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                    return Err(Error::unexpected(format!("{host} sent more than {MAX_ANSWER_BYTES} bytes")));
                }
                body.extend_from_slice(&chunk);
            }
            let mut answer = Response::new(body.freeze());
            *answer.status_mut() = response.status();
            Ok(answer)
        };
        let timeout = || Error::unexpected(format!("no answer from {host} within {} s", limit.as_secs()));
        tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| Err(timeout()))
    }
}

/// A message with the innermost cause. The outer causes quote the URL.
fn broken(host: &str, error: &reqwest::Error) -> String {
    let cause = std::iter::successors(error.source(), |error| (*error).source()).last();
    let cause = cause.map_or_else(|| "unknown cause".to_owned(), ToString::to_string);
    format!("the request to {host} failed: {cause}")
}
