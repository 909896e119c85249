//! Pushes images to a registry over plain HTTP and reads digests. No engine is needed.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use imagewatch_abi::Digest;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, header};
use serde_json::json;

use crate::http_client::build_client;
use crate::image::{Blob, BuiltImage, ImageSpec, MANIFEST_TYPE, build_image, platform_fields, sha256};
use crate::token_server::TokenSigner;

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// The credentials of a push.
#[derive(Debug, Clone)]
pub enum PushAuth {
    /// No credentials.
    Anonymous,
    /// Basic auth.
    Basic {
        /// The user's name.
        user: String,
        /// The user's password.
        password: String,
    },
    /// Bearer tokens that are signed locally, so that the token server counts only the requests of other clients.
    Signer(Arc<TokenSigner>),
}

/// A registry to push to, `host:port` over plain HTTP, with credentials.
#[derive(Debug, Clone)]
pub struct RegistryTarget {
    host: String,
    auth: PushAuth,
    client: Client,
}

impl RegistryTarget {
    /// A target at `host` (`127.0.0.1:5000`).
    pub fn new(host: &str, auth: PushAuth) -> Self {
        Self { host: host.to_owned(), auth, client: build_client() }
    }

    /// Pushes `spec` as `repository:tag` and returns the manifest's digest.
    pub async fn push(&self, repository: &str, tag: &str, spec: &ImageSpec) -> Digest {
        let image = build_image(spec);
        self.push_built(repository, tag, &image, None).await;
        image.manifest.digest
    }

    /// Pushes an index with one image for each platform (`os/arch[/variant]`) and returns the index's digest.
    pub async fn push_index(&self, repository: &str, tag: &str, images: &[(&str, ImageSpec)]) -> Digest {
        let mut entries = Vec::new();
        for (platform, spec) in images {
            let image = build_image(spec);
            let child = &image.manifest.digest;
            self.push_built(repository, child.as_str(), &image, None).await;
            entries.push(json!({
                "mediaType": MANIFEST_TYPE,
                "size": image.manifest.bytes.len(),
                "digest": child,
                "platform": platform_fields(platform),
            }));
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}).to_string();
        let digest = sha256(index.as_bytes());
        let request = self.request(Method::PUT, repository, &format!("manifests/{tag}"));
        let request = request.header(header::CONTENT_TYPE, INDEX_TYPE).body(index);
        expect_status(send(request).await, StatusCode::CREATED);
        digest
    }

    /// Pushes `spec` and then deletes its last layer in the registry, so that a pull fails in the middle.
    pub async fn push_damaged(&self, repository: &str, tag: &str, spec: &ImageSpec) -> Digest {
        let image = build_image(spec);
        self.push_built(repository, tag, &image, None).await;
        // The config comes after the layers.
        let layer = &image.blobs[image.blobs.len() - 2].digest;
        let deleted = self.request(Method::DELETE, repository, &format!("blobs/{layer}"));
        expect_status(send(deleted).await, StatusCode::ACCEPTED);
        image.manifest.digest
    }

    /// Pushes `spec` as `prefix-0:tag` up to `prefix-{count - 1}:tag`. To save time, the blobs are sent once and
    /// mounted into the other repositories. Returns the digest, which is the same in all repositories.
    pub async fn push_many(&self, prefix: &str, count: usize, tag: &str, spec: &ImageSpec) -> Digest {
        let image = build_image(spec);
        let first = format!("{prefix}-0");
        self.push_built(&first, tag, &image, None).await;
        let others = (1..count).map(|index| {
            let (image, first) = (&image, &first);
            async move { self.push_built(&format!("{prefix}-{index}"), tag, image, Some(first)).await }
        });
        stream::iter(others).buffer_unordered(16).collect::<()>().await;
        image.manifest.digest
    }

    /// The digest of `repository:tag`. `None` if the tag does not exist.
    pub async fn digest_of(&self, repository: &str, tag: &str) -> Option<Digest> {
        let request = self.request(Method::HEAD, repository, &format!("manifests/{tag}"));
        let response = send(request.header(header::ACCEPT, MANIFEST_TYPE)).await;
        (response.status() != StatusCode::NOT_FOUND).then(|| {
            let digest = header_text(&expect_status(response, StatusCode::OK), "docker-content-digest");
            digest.parse().expect("a registry sends a valid digest")
        })
    }

    async fn push_built(&self, repository: &str, tag: &str, image: &BuiltImage, mount_from: Option<&str>) {
        for blob in &image.blobs {
            self.push_blob(repository, blob, mount_from).await;
        }
        let request = self.request(Method::PUT, repository, &format!("manifests/{tag}"));
        let request = request.header(header::CONTENT_TYPE, MANIFEST_TYPE).body(image.manifest.bytes.clone());
        expect_status(send(request).await, StatusCode::CREATED);
    }

    async fn push_blob(&self, repository: &str, blob: &Blob, mount_from: Option<&str>) {
        let digest = &blob.digest;
        if let Some(from) = mount_from {
            let url = self.url(repository, &format!("blobs/uploads/?mount={digest}&from={from}"));
            let mount = self.authorize(self.client.post(url), &[repository, from]);
            expect_status(send(mount).await, StatusCode::CREATED);
        } else if !self.has_blob(repository, digest).await {
            let started = send(self.request(Method::POST, repository, "blobs/uploads/")).await;
            let location = header_text(&expect_status(started, StatusCode::ACCEPTED), "location");
            let separator = if location.contains('?') { '&' } else { '?' };
            let upload = self.client.put(format!("{location}{separator}digest={digest}")).body(blob.bytes.clone());
            let upload = self.authorize(upload, &[repository]).header(header::CONTENT_TYPE, "application/octet-stream");
            expect_status(send(upload).await, StatusCode::CREATED);
        }
    }

    async fn has_blob(&self, repository: &str, digest: &Digest) -> bool {
        send(self.request(Method::HEAD, repository, &format!("blobs/{digest}"))).await.status() == StatusCode::OK
    }

    fn request(&self, method: Method, repository: &str, path: &str) -> RequestBuilder {
        self.authorize(self.client.request(method, self.url(repository, path)), &[repository])
    }

    fn url(&self, repository: &str, path: &str) -> String {
        format!("http://{}/v2/{repository}/{path}", self.host)
    }

    fn authorize(&self, request: RequestBuilder, repositories: &[&str]) -> RequestBuilder {
        match &self.auth {
            PushAuth::Anonymous => request,
            PushAuth::Basic { user, password } => request.basic_auth(user, Some(password)),
            PushAuth::Signer(signer) => request.bearer_auth(signer.issue("pusher", repositories)),
        }
    }
}

async fn send(request: RequestBuilder) -> Response {
    request.send().await.unwrap_or_else(|error| panic!("the registry did not answer: {error:?}"))
}

fn expect_status(response: Response, wanted: StatusCode) -> Response {
    assert_eq!(response.status(), wanted, "the registry's answer for {}", response.url());
    response
}

fn header_text(response: &Response, name: &str) -> String {
    let value = response.headers().get(name).unwrap_or_else(|| panic!("no {name} header from {}", response.url()));
    value.to_str().expect("the registry's headers are ASCII").to_owned()
}
