//! Every checked query, as the build without a database knows it, against the schema as it is migrated.
#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion here")]

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, PgPool, SqlSafeStr};
use std::{fs, path::Path};

#[sqlx::test(migrations = "../../migrations")]
async fn the_queries_kept_for_offline_builds_fit_the_schema(db: PgPool) {
    durable::setup(&db).await.unwrap();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.sqlx");
    let mut connection = db.acquire().await.unwrap();
    let mut wrong = Vec::new();
    let mut checked = 0;
    for file in fs::read_dir(kept).unwrap() {
        let query: Value = serde_json::from_slice(&fs::read(file.unwrap().path()).unwrap()).unwrap();
        let text = query["query"].as_str().unwrap().to_owned();
        checked += 1;
        match connection.describe(AssertSqlSafe(text.clone()).into_sql_str()).await {
            Ok(described) => {
                let described = serde_json::to_value(&described).unwrap();
                for part in ["columns", "parameters"] {
                    if without_origin(&described[part]) != without_origin(&query["describe"][part]) {
                        wrong.push(format!("{part} of {text}"));
                    }
                }
            }
            Err(error) => wrong.push(format!("{error}: {text}")),
        }
    }
    assert!(checked > 100, "only {checked} queries are kept");
    assert!(wrong.is_empty(), "run cargo sqlx prepare --workspace -- --workspace --all-targets; these differ: {wrong:#?}");
}

/// Column numbers and table names may move; names and types may not.
fn without_origin(part: &Value) -> Value {
    let mut part = part.clone();
    for column in part.as_array_mut().into_iter().flatten() {
        if let Some(fields) = column.as_object_mut() {
            fields.retain(|name, _| name == "name" || name == "type_info" || name == "ordinal");
        }
    }
    part
}
