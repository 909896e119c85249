#![allow(clippy::unwrap_used, clippy::panic)]

mod compose;
mod config;
mod host;
mod networks;
mod outside;
mod podman;
mod skip;
mod start_first;

use std::sync::LazyLock;

use super::*;

const OLD_API: ApiVersion = ApiVersion { major: 1, minor: 41 };
const NEW_API: ApiVersion = ApiVersion { major: 1, minor: 51 };
const ID: &str = "0123456789abcdef";
/// The id of the container `db`, which every test's engine has.
const DB_ID: &str = "dbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdb";

static NOTHING: Value = Value::Null;
static NAMES: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let two = [(DB_ID, "db"), ("cafecafecafe0123", "cafe")];
    two.map(|(id, name)| (id.to_owned(), name.to_owned())).into()
});

fn input<'a>(old: &'a Value, old_image: &'a Value) -> PlanInput<'a> {
    PlanInput {
        old,
        old_image,
        new_image: &NOTHING,
        volume_sources: &[],
        names: &NAMES,
        reference: None,
        platform: None,
        api: OLD_API,
        is_podman: false,
    }
}

fn plan_config(config: &Value, host: &Value, image_config: &Value) -> Value {
    let old = json!({ "Id": ID, "Config": config, "HostConfig": host });
    build_plan(&input(&old, &json!({ "Config": image_config }))).unwrap().body
}

#[test]
fn f04_no_platform_is_named_unless_it_is_asked_for() {
    let (old, arm) = (json!({ "Id": ID }), json!({ "Os": "linux", "Architecture": "arm64", "Variant": "v8" }));
    let amd = json!({ "Os": "linux", "Architecture": "amd64", "Variant": "" });
    let api_1_40 = ApiVersion { major: 1, minor: 40 };
    for (case, api, image, wanted, expected) in [
        ("with a variant", OLD_API, &arm, None, None),
        ("without a variant", OLD_API, &amd, None, None),
        ("ordered", OLD_API, &arm, Some("linux/amd64"), Some("linux/amd64")),
        ("unknown", OLD_API, &json!({}), None, None),
        ("an engine that takes none", api_1_40, &arm, Some("linux/amd64"), None),
    ] {
        let plan = build_plan(&PlanInput { platform: wanted, api, ..input(&old, image) }).unwrap();
        assert_eq!(plan.platform.as_deref(), expected, "{case}");
    }
    let descriptor = json!({ "platform": { "os": "linux", "architecture": "arm", "variant": "v6" } });
    let of_index = json!({ "Id": ID, "ImageManifestDescriptor": descriptor });
    for (case, container, expected) in [("graph driver", &old, "linux/arm64/v8"), ("index", &of_index, "linux/arm/v6")]
    {
        assert_eq!(own_platform(container, &arm).as_deref(), Some(expected), "{case}: to create it again");
    }
}

#[test]
fn a_container_of_which_the_engine_shows_next_to_nothing_is_planned_all_the_same() {
    let plan = build_plan(&input(&json!({ "Id": ID }), &NOTHING)).unwrap();
    let expected = json!({ "HostConfig": {}, "NetworkingConfig": { "EndpointsConfig": {} } });
    assert_eq!(plan.body, expected);
}
