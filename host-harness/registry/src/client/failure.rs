//! Maps errors of requests to failures with messages for the operator. A message contains the host but not the URL.

use std::error::Error;
use std::io;
use std::time::Duration;

use imagewatch_abi::{Failure, FailureCode};
use rustls::{AlertDescription, CertificateError};

use super::certificates;
use crate::credentials::error::CredentialError;
use crate::network::RefusedAddress;
use imagewatch_base::text::sanitize_line;

pub(super) fn shutting_down(host: &str) -> Failure {
    Failure::retryable(FailureCode::ShuttingDown, format!("imagewatch is stopping and does not wait for {host}"))
}

pub(super) fn batch_timeout(host: &str, deadline: Duration) -> Failure {
    let message =
        format!("the request to {host} was not sent or not answered within {deadline:?} (`host.http_send_timeout`)");
    Failure::retryable(FailureCode::Timeout, message)
}

pub(super) fn over_budget(host: &str) -> Failure {
    let message =
        format!("the registries' answers exceed `host.max_host_bytes` for one call; the answer of {host} was dropped");
    Failure::retryable(FailureCode::TooLarge, message)
}

pub(super) fn no_answer(host: &str, deadline: Duration) -> Failure {
    let within = match deadline.subsec_millis() {
        0 => format!("{} s", deadline.as_secs()),
        _ => format!("{} ms", deadline.as_millis()),
    };
    Failure::retryable(FailureCode::Timeout, format!("no answer from {host} within {within}"))
}

pub(super) fn no_credential(registry: &str, sources: &str) -> Failure {
    Failure::permanent(FailureCode::NoCredential, format!("no credential is stored for {registry}: set {sources}"))
}

pub(super) fn unreadable_credential(registry: &str, error: &CredentialError) -> Failure {
    Failure::retryable(
        FailureCode::NoCredential,
        format!("cannot look up the credential for {registry}: failed to {error}"),
    )
}

pub(super) fn rejected(registry: &str) -> Failure {
    let message = format!("{registry} rejected its stored credential, and no other credential is stored: replace it");
    Failure::permanent(FailureCode::Rejected, message)
}

pub(super) fn identity_token(registry: &str) -> Failure {
    let message =
        format!("the credential of {registry} is an identity token: only a token realm accepts it, in a POST request");
    Failure::permanent(FailureCode::IdentityToken, message)
}

pub(super) fn per_repository(registry: &str) -> Failure {
    let message =
        format!("the credentials of {registry} are stored per repository: name the repository with the registry");
    Failure::permanent(FailureCode::PerRepository, message)
}

pub(super) fn unusable_tls(host: &str, error: &certificates::CertificateError) -> Failure {
    Failure::permanent(FailureCode::Tls, format!("could not agree on TLS with {host}: failed to {error}"))
}

pub(super) fn too_many_redirects(host: &str, limit: usize) -> Failure {
    Failure::permanent(FailureCode::BadAnswer, format!("{host} redirects more than {limit} times: is it a registry?"))
}

pub(super) fn compressed(host: &str, coding: &str) -> Failure {
    let coding = sanitize_line(coding);
    let message = format!("{host} sent a body compressed with {coding:?}, although imagewatch accepts no compression");
    Failure::permanent(FailureCode::BadAnswer, message)
}

pub(super) fn too_large(host: &str, what: &str, limit_bytes: usize) -> Failure {
    let message = format!("{host} sent a {what} of more than {limit_bytes} bytes: is it a registry?");
    Failure::permanent(FailureCode::TooLarge, message)
}

pub(super) fn broken_exchange(host: &str, error: &reqwest::Error) -> Failure {
    let message = format!("the request to {host} failed: {}", root_cause(error));
    Failure::retryable(FailureCode::Connect, message)
}

pub(super) fn failed_send(host: &str, error: &reqwest::Error, deadline: Duration) -> Failure {
    if let Some(refused) = chain(error).find_map(|error| error.downcast_ref::<RefusedAddress>()) {
        return Failure::permanent(FailureCode::Denied, refused.to_string());
    }
    match chain(error).find_map(tls_error) {
        Some(tls) => failed_tls(host, tls),
        None if error.is_timeout() => no_answer(host, deadline),
        None if error.is_connect() => Failure::retryable(
            FailureCode::Connect,
            format!("could not connect to {host}: {}; is it up and is the name right?", root_cause(error)),
        ),
        None => broken_exchange(host, error),
    }
}

fn failed_tls(host: &str, error: &rustls::Error) -> Failure {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage};
    let (what, advice) = match error {
        InvalidCertificate(CertificateError::UnknownIssuer) => (
            "its certificate is from an unknown issuer".to_owned(),
            "put the issuer's certificate into /etc/docker/certs.d/<host>/ca.crt, or into the system's store, or name \
             it in SSL_CERT_FILE",
        ),
        InvalidCertificate(CertificateError::BadSignature) => (
            "its certificate is not signed by the trusted issuer with that name".to_owned(),
            "if the issuer was replaced, put its new certificate where the old one is: into \
             /etc/docker/certs.d/<host>/ca.crt, or into the system's store",
        ),
        InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => (error.to_string(), "renew the certificate, or set this machine's clock"),
        InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            (error.to_string(), "use a name that the certificate covers")
        }
        AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateExpired,
        ) => (
            error.to_string(),
            "it requires a client certificate: put one that it accepts into /etc/docker/certs.d/<host>/client.cert, \
             and its key into client.key",
        ),
        InvalidMessage(_) => (
            "it does not answer with TLS".to_owned(),
            "if it uses plain http, add it to host.insecure_registries and use an http url",
        ),
        other => (other.to_string(), "check its TLS configuration"),
    };
    Failure::permanent(
        FailureCode::Tls,
        format!("could not agree on TLS with {host}: {}; {advice}", sanitize_line(&what)),
    )
}

/// Finds a TLS error. The `source` of an `io::Error` skips the inner error, so this function uses `get_ref`.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
    match inner {
        Some(inner) => tls_error(inner),
        None => error.downcast_ref::<rustls::Error>(),
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The innermost error only. The outer errors of reqwest quote the URL with its query.
fn root_cause(error: &reqwest::Error) -> String {
    match chain(error).skip(1).last() {
        Some(cause) => sanitize_line(&cause.to_string()),
        None => "unknown cause".to_owned(),
    }
}
