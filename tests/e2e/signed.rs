//! Tests that with a required signature, the real program runs only modules that the key signed, at its start and after
//! a change of the file.

use std::path::Path;

use imagewatch_tests::components;
use imagewatch_tests::plugin_manifest::{PluginManifest, deploy, hash_of};
use minisign::KeyPair;
use serde_json::json;

use crate::reload::{plugin_status, variant};
use crate::stage::{SHORT_TIMEOUT, Stage, run_to_end};

fn sign(key: &KeyPair, module: &Path, wasm: &[u8]) {
    let signature = minisign::sign(None, &key.sk, wasm, None, None).expect("the key signs").into_string();
    std::fs::write(module.with_extension("wasm.minisig"), signature).expect("the test's folder is writable");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_modules_signed_by_the_key_are_loaded() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    stage.run("web").await;
    let (key, another) = (KeyPair::generate_unencrypted_keypair(), KeyPair::generate_unencrypted_keypair());
    let (key, another) = (key.expect("random numbers"), another.expect("random numbers"));
    let module = stage.folder.path().join("policy.wasm");
    let wasm = std::fs::read(components::plugin_wasm()).expect("the module was built");
    deploy(&module, &wasm);
    let manifest = PluginManifest { wasm: module.clone(), hash: None, ..stage.manifest() };
    let manifest = manifest
        .config("images", &stage.image("web"))
        .config("host.allow_unhashed", "true")
        .config("host.signature_key", &key.pk.to_base64());
    let path = stage.write(&manifest, "signed");
    let check = ["check", path.to_str().expect("text")];

    let (code, output) = run_to_end(stage.scope.engine().host(), &check, &[]).await;
    assert!(code == 4 && output.contains("policy.wasm.minisig cannot be read"), "{output}");
    sign(&another, &module, &wasm);
    let (code, output) = run_to_end(stage.scope.engine().host(), &check, &[]).await;
    assert!(code == 4 && output.contains("does not match `host.signature_key`"), "{output}");
    sign(&key, &module, &wasm);
    let daemon = stage.watch(&[path]);
    daemon.wait_for_line("first seen").await;

    let next = variant("next");
    deploy(&module, &next);
    daemon.wait_for_line("goes on as before").await;
    let status = plugin_status(&daemon, "signed").await;
    assert_eq!(status["running"]["sha256"], json!(hash_of(&wasm)), "{status}");
    sign(&key, &module, &next);
    daemon.process.wait_for_line("reloaded", SHORT_TIMEOUT).await;
    let status = plugin_status(&daemon, "signed").await;
    assert_eq!(status["running"]["sha256"], json!(hash_of(&next)), "{status}");
    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, SHORT_TIMEOUT).await;
    daemon.stop().await;
}
