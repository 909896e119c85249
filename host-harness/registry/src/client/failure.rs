//! What went wrong with a request, in words for the operator: the host is named, the URL is not.
//! Only maps errors to failures; retries nothing.

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
    Failure::passing(FailureCode::ShuttingDown, format!("imagewatch is stopping: {host} was not waited for"))
}

pub(super) fn too_late(host: &str, deadline: Duration) -> Failure {
    let message =
        format!("the turn of {host} did not come, or not its answer, within {deadline:?} (`host.http_send_timeout`)");
    Failure::passing(FailureCode::Timeout, message)
}

pub(super) fn no_room(host: &str) -> Failure {
    let message =
        format!("what the registries answer is more than `host.max_host_bytes` for one call; {host} was left out");
    Failure::passing(FailureCode::TooLarge, message)
}

pub(super) fn no_answer(host: &str, deadline: Duration) -> Failure {
    let within = match deadline.subsec_millis() {
        0 => format!("{} s", deadline.as_secs()),
        _ => format!("{} ms", deadline.as_millis()),
    };
    Failure::passing(FailureCode::Timeout, format!("no answer from {host} within {within}"))
}

pub(super) fn no_credential(registry: &str, sources: &str) -> Failure {
    Failure::lasting(FailureCode::NoCredential, format!("no credential is stored for {registry}: set {sources}"))
}

pub(super) fn unreadable_credential(registry: &str, error: &CredentialError) -> Failure {
    Failure::passing(
        FailureCode::NoCredential,
        format!("the credential for {registry} was not found: failed to {error}"),
    )
}

pub(super) fn rejected(registry: &str) -> Failure {
    let message = format!("{registry} refused the credential that is stored for it, and no other is: replace it");
    Failure::lasting(FailureCode::Rejected, message)
}

pub(super) fn identity_token(registry: &str) -> Failure {
    let message = format!("the credential of {registry} is an identity token, which only a token realm takes, by POST");
    Failure::lasting(FailureCode::IdentityToken, message)
}

pub(super) fn per_repository(registry: &str) -> Failure {
    let message = format!("the credentials of {registry} are kept by repository: name the repository with it");
    Failure::lasting(FailureCode::PerRepository, message)
}

pub(super) fn unusable_tls(host: &str, error: &certificates::CertificateError) -> Failure {
    Failure::lasting(FailureCode::Tls, format!("could not agree on TLS with {host}: failed to {error}"))
}

pub(super) fn too_many_redirects(host: &str, limit: usize) -> Failure {
    Failure::lasting(FailureCode::BadAnswer, format!("{host} redirects more than {limit} times: is it a registry?"))
}

pub(super) fn compressed(host: &str, coding: &str) -> Failure {
    let coding = sanitize_line(coding);
    let message = format!("{host} answered a body compressed with {coding:?}, which it was not asked for");
    Failure::lasting(FailureCode::BadAnswer, message)
}

pub(super) fn too_large(host: &str, what: &str, limit_bytes: usize) -> Failure {
    let message = format!("{host} answered a {what} of more than {limit_bytes} bytes: is it a registry?");
    Failure::lasting(FailureCode::TooLarge, message)
}

pub(super) fn broken_exchange(host: &str, error: &reqwest::Error) -> Failure {
    let message = format!("the exchange with {host} broke off: {}", root_cause(error));
    Failure::passing(FailureCode::Connect, message)
}

pub(super) fn failed_send(host: &str, error: &reqwest::Error, deadline: Duration) -> Failure {
    if let Some(refused) = chain(error).find_map(|error| error.downcast_ref::<RefusedAddress>()) {
        return Failure::lasting(FailureCode::Denied, refused.to_string());
    }
    match chain(error).find_map(tls_error) {
        Some(tls) => failed_tls(host, tls),
        None if error.is_timeout() => no_answer(host, deadline),
        None if error.is_connect() => Failure::passing(
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
            "its certificate is from an issuer unknown here".to_owned(),
            "put the issuer's certificate into /etc/docker/certs.d/<host>/ca.crt, or into the system's store, or name \
             it in SSL_CERT_FILE",
        ),
        InvalidCertificate(CertificateError::BadSignature) => (
            "the issuer known here by that name did not sign its certificate".to_owned(),
            "if the issuer was made anew, put its new certificate where the old one is: into \
             /etc/docker/certs.d/<host>/ca.crt, or the system's store",
        ),
        InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => (error.to_string(), "renew the certificate, or set this machine's clock"),
        InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            (error.to_string(), "use a name that the certificate is for")
        }
        AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateExpired,
        ) => (
            error.to_string(),
            "it wants to be shown a certificate: put one it knows into /etc/docker/certs.d/<host>/client.cert, and its \
             key into client.key",
        ),
        InvalidMessage(_) => (
            "it does not answer in TLS".to_owned(),
            "if it speaks plain http, add it to host.insecure_registries and use an http url",
        ),
        other => (other.to_string(), "look at its TLS configuration"),
    };
    Failure::lasting(
        FailureCode::Tls,
        format!("could not agree on TLS with {host}: {}; {advice}", sanitize_line(&what)),
    )
}

/// An `io::Error` answers with the source of what it holds, not with what it holds.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let held = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
    match held {
        Some(held) => tls_error(held),
        None => error.downcast_ref::<rustls::Error>(),
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The innermost error alone: the outer ones of reqwest quote the URL with its query.
fn root_cause(error: &reqwest::Error) -> String {
    match chain(error).skip(1).last() {
        Some(cause) => sanitize_line(&cause.to_string()),
        None => "no cause is known".to_owned(),
    }
}
