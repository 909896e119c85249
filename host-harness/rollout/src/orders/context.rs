//! What an order is carried out with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use imagewatch_abi::{Container, Failure, Order, Reference};
use imagewatch_base::secret::Credential;
use imagewatch_engine::PullProgress;
use tokio_util::sync::CancellationToken;

use super::{RefusedLogins, Services};
use crate::Rollout;
use crate::slots::{SlotPermit, Slots};

/// How long a pull may take, unless configured otherwise.
pub const DEFAULT_PULL_TIMEOUT: Duration = Duration::from_mins(5);

/// Finds the credential to pull a reference with; the failure says which source of credentials is broken.
pub type CredentialLookup =
    Arc<dyn Fn(Reference) -> BoxFuture<'static, Result<Option<Credential>, Failure>> + Send + Sync>;
/// Is told how an order's pull goes, on every word of the engine.
pub type ProgressObserver = Arc<dyn Fn(&Order, PullProgress) + Send + Sync>;
/// An observer that does nothing.
pub fn no_progress() -> ProgressObserver {
    Arc::new(|_, _| {})
}

/// Whether the manifest grants a container.
pub type ContainerGrant = Arc<dyn Fn(&Container) -> bool + Send + Sync>;

/// What an order is carried out with; one per manifest.
#[derive(Clone)]
pub struct OrderContext {
    /// The manifest's name.
    pub manifest: String,
    /// The engine, and how containers are replaced on it. The same for all contexts on one engine.
    pub rollout: Arc<Rollout>,
    /// Bounds what works at the same time, over all manifests.
    pub slots: Slots,
    /// Has the containers of one service handled one at a time, over all manifests.
    pub services: Services,
    /// Credentials for pulls.
    pub credentials: CredentialLookup,
    /// Those of them that are not sent again.
    pub refused: Arc<RefusedLogins>,
    /// The limit of one pull; see [`DEFAULT_PULL_TIMEOUT`].
    pub pull_timeout: Duration,
    /// How long a replaced container without a health check must stay up.
    pub stable_for: Duration,
    /// How many images before the present one are kept of each repository; none: all of them.
    pub keep_images: Option<usize>,
    /// Watches pulls.
    pub progress: ProgressObserver,
    /// Ends an order at its next safe point.
    pub shutdown: CancellationToken,
    /// The manifest's `grant.containers`.
    pub is_granted: ContainerGrant,
}

impl fmt::Debug for OrderContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrderContext")
            .field("manifest", &self.manifest)
            .field("rollout", &self.rollout)
            .field("pull_timeout", &self.pull_timeout)
            .finish_non_exhaustive()
    }
}

impl OrderContext {
    /// A turn to work; none when the host shuts down first.
    pub(super) async fn acquire_slot(&self) -> Option<SlotPermit> {
        self.shutdown.run_until_cancelled(self.slots.take()).await.flatten()
    }
}
