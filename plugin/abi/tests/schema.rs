//! The JSON Schemas in `schema/` match the types. There is one for each input and output that crosses the boundary.
//! `UPDATE=1 cargo test -p imagewatch-abi --features schema --test schema` writes them again.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use imagewatch_abi::{
    Answer, Containers, DescribeOutput, HttpBatch, HttpResponses, LogLine, Orders, OrdersAccepted, PollInput,
    PollOutput, RefreshInput, RefreshOutput, Selector, SettleInput, SettleOutput, exports, host_functions,
};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

/// The schema that a reader applies: a field with a default may be absent.
fn schema<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    unlink(&mut schema);
    schema
}

/// Replaces the links to Rust items in doc comments with plain names.
fn unlink(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(unlink),
        Value::Object(fields) => {
            if let Some(Value::String(text)) = fields.get_mut("description") {
                *text = without_links(text);
            }
            fields.values_mut().for_each(unlink);
        }
        _ => {}
    }
}

/// ``[`A`](b::A)`` and ``[`A`]`` become `` `A` ``.
fn without_links(text: &str) -> String {
    let mut parts = text.split("[`");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("`]").expect("a link's name ends");
        let rest = match rest.strip_prefix('(') {
            Some(target) => target.split_once(')').expect("a link's target ends").1,
            None => rest,
        };
        plain.extend(["`", name, "`", rest]);
    }
    plain
}

/// All schemas by file name.
fn schemas() -> BTreeMap<String, Value> {
    let inputs = [
        (exports::POLL, schema::<PollInput>()),
        (exports::SETTLE, schema::<SettleInput>()),
        (exports::REFRESH, schema::<RefreshInput>()),
        (host_functions::HTTP_SEND, schema::<HttpBatch>()),
        (host_functions::DOCKER_CONTAINERS, schema::<Selector>()),
        (host_functions::DOCKER_REFRESH, schema::<Orders>()),
        (host_functions::HOST_LOG, schema::<LogLine>()),
    ];
    let outputs = [
        (exports::DESCRIBE, schema::<DescribeOutput>()),
        (exports::POLL, schema::<PollOutput>()),
        (exports::SETTLE, schema::<SettleOutput>()),
        (exports::REFRESH, schema::<RefreshOutput>()),
        (host_functions::HTTP_SEND, schema::<Answer<HttpResponses>>()),
        (host_functions::DOCKER_CONTAINERS, schema::<Answer<Containers>>()),
        (host_functions::DOCKER_REFRESH, schema::<Answer<OrdersAccepted>>()),
    ];
    let inputs = inputs.into_iter().map(|(name, schema)| (format!("{name}.in.json"), schema));
    let outputs = outputs.into_iter().map(|(name, schema)| (format!("{name}.out.json"), schema));
    inputs.chain(outputs).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schema")
}

fn checked_in() -> BTreeMap<String, Value> {
    let entries = fs::read_dir(folder()).expect("the folder of the schemas");
    let files = entries.map(|entry| entry.expect("an entry").path());
    let name = |file: &Path| file.file_name().expect("a file").to_string_lossy().into_owned();
    let schema = |file: &Path| serde_json::from_slice(&fs::read(file).expect("a file")).expect("a schema");
    files.map(|file| (name(&file), schema(&file))).collect()
}

#[test]
fn checked_in_schemas_match_the_types() {
    let schemas = schemas();
    if std::env::var_os("UPDATE").is_some() {
        for (name, schema) in &schemas {
            fs::write(folder().join(name), format!("{schema:#}\n")).expect("it can be written");
        }
    }
    let checked_in = checked_in();
    assert!(checked_in.keys().eq(schemas.keys()), "plugin/abi/schema contains {:?}", checked_in.keys());
    for (name, schema) in &schemas {
        assert_eq!(
            checked_in[name], *schema,
            "plugin/abi/schema/{name}: run the test with UPDATE=1 and review the change"
        );
    }
}

#[test]
fn links_in_doc_comments_become_plain_names() {
    for (text, plain) in [
        ("see [`Order`](crate::Order), or [`Report`].", "see `Order`, or `Report`."),
        ("`{\"ok\": …}` [sic] (so)", "`{\"ok\": …}` [sic] (so)"),
    ] {
        assert_eq!(without_links(text), plain);
    }
}
