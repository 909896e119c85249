//! Describes the policy and the targets in its config. Calls no host function except `config`.

use imagewatch_abi::{ABI_VERSION, ConfigKey, DescribeOutput, DescribedTarget};

use crate::Host;
use crate::config::{Config, KEYS, Watch};

pub(crate) fn describe(host: &dyn Host) -> DescribeOutput {
    let output = DescribeOutput {
        name: "imagewatch".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi: ABI_VERSION,
        config_keys: KEYS.iter().map(config_key).collect(),
        ..DescribeOutput::default()
    };
    match Config::parse(host) {
        Err(failure) => DescribeOutput { err: Some(failure), ..output },
        Ok(config) => DescribeOutput {
            enabled: config.enabled,
            interval_ms: config.interval_ms,
            default_target: config.default_name,
            targets: match config.watch {
                Watch::Containers { .. } => Vec::new(),
                Watch::Listed(listed) => {
                    listed.into_iter().map(|(name, reference)| DescribedTarget { name, reference }).collect()
                }
            },
            ..output
        },
    }
}

fn config_key(key: &crate::config::Key) -> ConfigKey {
    ConfigKey {
        key: key.name.to_owned(),
        kind: key.kind.to_owned(),
        default: key.default.to_owned(),
        doc: key.doc.to_owned(),
    }
}
