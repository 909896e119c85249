//! Modules that list hosts, to reach what the manifest does not grant.

use super::*;
use imagewatch_policy::load;

fn listing(hosts: &[&str], poll: &str) -> Inline {
    let mut policy = Inline::polling(poll);
    policy.capabilities = policy.capabilities.replace(r#""hosts": "any""#, &format!(r#""hosts": {}"#, json!(hosts)));
    policy
}

#[rstest]
#[case::path_before_the_granted_suffix("evil.com/x.example.com", "evil.com/x.example.com")]
#[case::user_before_the_granted_host("a.example.com@evil.com", "a.example.com@evil.com")]
#[case::scheme("https://a.example.com", "https://a.example.com")]
#[case::not_granted("evil.com", "hosts evil.com")]
#[case::wider_than_granted("*", "hosts *")]
#[case::another_port("a.example.com:8443", "hosts a.example.com:8443")]
fn s4_a_module_that_lists_more_than_is_granted_is_refused(#[case] entry: &str, #[case] part: &str) {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("hostile.wasm");
    std::fs::write(&path, listing(&["a.example.com", entry], "").build()).expect("a file");
    let text = json!({"wasm": [{"path": path}], "allowed_hosts": ["?.example.com"], "config": {"host.allow_unhashed": "true"}});
    let manifest = PluginManifest::parse("hostile", "(test)", &text.to_string(), &|_| None).expect("a good manifest");
    let error = load(&manifest).expect_err("it is refused").to_string();
    assert!(error.contains(part), "{error}");
}

#[rstest]
#[case::metadata_service("169.254.169.254", "http://169.254.169.254/")]
#[case::another_link_local("169.254.3.4:8080", "http://169.254.3.4:8080/")]
#[case::link_local_v6("[fe80::1]", "http://[fe80::1]/")]
#[case::metadata_of_another_cloud("100.100.100.200", "http://100.100.100.200/")]
#[case::unspecified("0.0.0.0", "http://0.0.0.0/")]
#[tokio::test(flavor = "multi_thread")]
async fn s5_a_list_of_a_module_makes_no_address_reachable(#[case] entry: &str, #[case] url: &str) {
    let policy = listing(&[entry], &ask(&format!(r#"{{"method": "GET", "url": "{url}"}}"#)));
    let insecure = entry.split(':').next().unwrap_or_default();
    let insecure = if entry.starts_with('[') { entry } else { insecure };
    let insecure = format!("loopback {insecure} {entry}");
    let mut scene = Scene::with_hosts(&policy, &["*"], &[("host.insecure_registries", insecure.as_str())]).await;
    scene.poll().await.expect("the call goes on");
    let recorded = scene.record.read();
    assert_eq!(recorded.denied, [(Denied::Http, 1)].into());
    let said = recorded.last_denied.expect("it is told").reason;
    assert!(said.contains("allowed_hosts"), "{said}");
}
