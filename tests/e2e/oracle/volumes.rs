//! Tests that replaced containers keep their data, in named and anonymous volumes.

use std::collections::BTreeMap;

use serde_json::Value;

use super::rig::OracleFixture;
use super::sets::{Images, run};

/// The volume names by destination.
fn volumes(container: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mounts = container["Mounts"].as_array().into_iter().flatten();
    mounts.filter_map(|mount| Some((text(&mount["Destination"])?, text(&mount["Name"])?))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn t15_data_in_anonymous_volumes_is_kept() {
    let set = run("t15", "-u 0 -v /bare --mount type=volume,dst=/mounted -v {vol}:/named").on(Images::Volumes);
    let rig = OracleFixture::new().await;
    let sandbox = rig.sandbox(209, &set).await;
    sandbox.point_tag_at(&Images::Volumes.old_role()).await;
    sandbox.make(&set).await;
    let kept = ["/bare", "/mounted", "/named", "/data", "/only-a"];
    let name = sandbox.name();
    for folder in kept {
        let script = format!("echo from {folder} > {folder}/file");
        rig.docker(["exec", &name, "sh", "-c", &script]).await;
    }
    let old = volumes(&sandbox.inspect().await);
    sandbox.point_tag_at(&Images::Volumes.new_role()).await;
    let new = sandbox.replace().await.unwrap_or_else(|reason| panic!("the container was not replaced: {reason}"));
    let new = volumes(&new);
    for folder in kept {
        assert_eq!(new.get(folder), old.get(folder), "{folder}");
        let text = rig.docker(["exec", &name, "cat", &format!("{folder}/file")]).await;
        assert_eq!(text, format!("from {folder}"));
    }
    assert!(new.contains_key("/only-b"), "{new:?}");
    sandbox.clear().await;
}
