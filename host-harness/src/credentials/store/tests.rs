//! Names of registries, and which source goes before which.

use super::*;

#[test]
fn a_registry_has_one_name_however_it_is_written() {
    for (written, name) in [
        ("ghcr.io", Some("ghcr.io")),
        (" GHCR.io ", Some("ghcr.io")),
        ("ghcr.io:443", Some("ghcr.io")),
        ("docker.io", Some("docker.io")),
        ("index.docker.io", Some("docker.io")),
        ("Registry-1.Docker.io", Some("docker.io")),
        ("registry.example.com:5000", Some("registry.example.com:5000")),
        ("127.0.0.1:5000", Some("127.0.0.1:5000")),
        ("[::1]:5000", Some("[::1]:5000")),
        ("localhost", Some("localhost")),
        ("", None),
        ("ghcr.io/org", None),
        ("https://ghcr.io", None),
        ("user@ghcr.io", None),
        ("ghcr.io?x", None),
        ("ghcr.io:port", None),
        ("https:", None),
        ("a b", None),
    ] {
        assert_eq!(parse_registry(written).as_deref(), name, "{written:?}");
    }
}
