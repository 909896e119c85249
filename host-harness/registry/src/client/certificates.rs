//! The TLS configuration for a registry. It trusts the system's issuers. Docker's folder for one registry,
//! `<base>/<host[:port]>/`, can add issuers (`*.crt`) and a client certificate (`*.cert` with `*.key`). This module
//! reads files and makes no connections.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

/// The certificates of a registry cannot be used. The message contains the file name but never the content.
#[derive(Debug, thiserror::Error)]
#[error("use {path}: {why}")]
pub(super) struct CertificateError {
    path: String,
    why: String,
}

/// Builds the TLS configuration of each host.
#[derive(Debug)]
pub(super) struct Certificates {
    provider: Arc<CryptoProvider>,
    system: Arc<dyn ServerCertVerifier>,
    folders: Vec<PathBuf>,
}

impl Certificates {
    /// Loads the system's issuers once. `folders` contain one folder per registry; the first match is used.
    pub(super) fn load(folders: Vec<PathBuf>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let system = Arc::new(Verifier::new(Arc::clone(&provider))?);
        Ok(Self { provider, system, folders })
    }

    /// The TLS configuration for the host with these `names` (`r.lan`, `r.lan:443`). Reads its files again on each
    /// call.
    pub(super) fn tls_for(&self, names: &[&str]) -> Result<ClientConfig, CertificateError> {
        let folder = self.folders.iter().flat_map(|base| names.iter().filter_map(|name| folder_of(base, name)));
        match folder.into_iter().find(|folder| folder.is_dir()) {
            Some(folder) => self.build(&folder),
            None => self.build_with(Arc::clone(&self.system), None).map_err(|error| fault(Path::new("TLS"), &error)),
        }
    }

    fn build(&self, folder: &Path) -> Result<ClientConfig, CertificateError> {
        let files = list(folder)?;
        let with_extension =
            |ending: &'static str| files.iter().filter(move |file| file.extension() == Some(OsStr::new(ending)));
        let mut issuers = Vec::new();
        for file in with_extension("crt") {
            let found = read_certificates(file)?;
            for issuer in &found {
                RootCertStore::empty().add(issuer.clone()).map_err(|error| fault(file, &error))?;
            }
            issuers.extend(found);
        }
        let verifier: Arc<dyn ServerCertVerifier> = if issuers.is_empty() {
            Arc::clone(&self.system)
        } else {
            let provider = Arc::clone(&self.provider);
            Arc::new(Verifier::new_with_extra_roots(issuers, provider).map_err(|error| fault(folder, &error))?)
        };
        let mut shown = with_extension("cert");
        let client = shown.next().map(|file| read_client(file)).transpose()?;
        if let Some(second) = shown.next() {
            return Err(fault(second, "another *.cert is in the same folder; keep only the one to use"));
        }
        if let Some(key) = with_extension("key").find(|key| !key.with_extension("cert").is_file()) {
            return Err(fault(
                key,
                "its certificate is missing; put it into the same folder, with the same name and the extension .cert",
            ));
        }
        self.build_with(verifier, client).map_err(|error| fault(folder, &error))
    }

    fn build_with(
        &self,
        verifier: Arc<dyn ServerCertVerifier>,
        client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Result<ClientConfig, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut tls = match client {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(tls)
    }
}

/// The folder of a host. The name comes from a URL, so it must be a single path component.
fn folder_of(base: &Path, name: &str) -> Option<PathBuf> {
    let mut components = Path::new(name).components();
    let is_plain = matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none();
    is_plain.then(|| base.join(name))
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, CertificateError> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut files: Vec<PathBuf> =
        entries.map_err(|error| fault(folder, &error))?.into_iter().map(|entry| entry.path()).collect();
    files.sort();
    Ok(files)
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|error| fault(file, &error))?;
    if found.is_empty() { Err(fault(file, "it contains no certificate; expected PEM")) } else { Ok(found) }
}

fn read_client(file: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CertificateError> {
    let key = file.with_extension("key");
    let parsed = PrivateKeyDer::from_pem_file(&key).map_err(|error| fault(&key, &error))?;
    Ok((read_certificates(file)?, parsed))
}

fn fault(path: &Path, why: &(impl ToString + ?Sized)) -> CertificateError {
    CertificateError { path: path.display().to_string(), why: why.to_string() }
}
