//! The first load of each manifest: all at once, each in a task of its own, so that none waits for another.

use std::collections::BTreeSet;

use futures_util::future::select_all;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::AppError;
use super::loading::{LoadedManifest, Source, load};

/// A manifest that is being loaded for the first time.
#[derive(Debug)]
pub(crate) struct FirstLoad {
    pub(crate) source: Source,
    task: JoinHandle<Result<LoadedManifest, AppError>>,
}

/// How many manifests a command waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// The command ends with an answer about all of them.
    All,
    /// The command can begin with one; the others follow.
    First,
}

/// Manifests by how far they are.
#[derive(Debug, Default)]
pub(crate) struct FirstLoads {
    pub(crate) ready: Vec<LoadedManifest>,
    pub(crate) refused: Vec<Refused>,
    pub(crate) pending: Vec<FirstLoad>,
}

/// A manifest that could not be loaded.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) source: Source,
    pub(crate) error: AppError,
}

impl FirstLoad {
    /// Begins to load `source`.
    fn begin(source: Source) -> Self {
        Self { task: tokio::spawn(load(source.clone())), source }
    }

    /// How the load ends.
    pub(crate) async fn ended(self) -> Result<LoadedManifest, AppError> {
        let ended = self.task.await;
        or_panicked(&self.source, ended)
    }
}

fn or_panicked(
    source: &Source,
    ended: Result<Result<LoadedManifest, AppError>, JoinError>,
) -> Result<LoadedManifest, AppError> {
    ended.unwrap_or_else(|panic| Err(AppError::Panicked(source.to_string(), panic.to_string())))
}

impl FirstLoads {
    /// Begins to load `sources` and waits for as many as `wait` says. Of two with one name, the first one counts.
    ///
    /// # Errors
    /// When `cancel` ends the wait.
    pub(crate) async fn begin(
        sources: Vec<Source>,
        wait: WaitFor,
        cancel: &CancellationToken,
    ) -> Result<Self, AppError> {
        let mut loads = Self::default();
        let (mut files, mut names) = (BTreeSet::new(), BTreeSet::new());
        // A file that is named twice counts once.
        for source in sources.into_iter().filter(|source| files.insert(source.absolute())) {
            if names.insert(source.name()) {
                loads.pending.push(FirstLoad::begin(source));
            } else {
                let error = AppError::SameName(source.to_string());
                loads.refused.push(Refused { source, error });
            }
        }
        let waited = async {
            while !loads.pending.is_empty() && (wait == WaitFor::All || loads.ready.is_empty()) {
                loads.take_next(wait).await;
            }
        };
        cancel.run_until_cancelled(waited).await.ok_or(AppError::Interrupted)?;
        Ok(loads)
    }

    /// Waits for one more: the next one in order when all are waited for.
    async fn take_next(&mut self, wait: WaitFor) {
        let among = if wait == WaitFor::All { 1 } else { self.pending.len() };
        let tasks = self.pending.iter_mut().take(among).map(|load| &mut load.task);
        let (ended, index, _) = select_all(tasks).await;
        let FirstLoad { source, .. } = self.pending.remove(index);
        match or_panicked(&source, ended) {
            Ok(ready) => {
                ready.say_loaded();
                self.ready.push(ready);
            }
            Err(error) => self.refused.push(Refused { source, error }),
        }
    }
}
