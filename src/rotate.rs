//! `ligne vault rotate`: everything at rest sealed again with the first key, in small batches, while the service runs.

use crate::{client::Printer, config, wiring};
use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool, Row as _};
use std::fmt;
use vault::Vault;

/// A sealed column and the SQL of the context that its seals are bound to.
struct Sealed {
    table: &'static str,
    column: &'static str,
    context: &'static str,
}

const fn sealed(table: &'static str, column: &'static str, context: &'static str) -> Sealed {
    Sealed { table, column, context }
}

/// All of them: a column `…_sealed` that is missing here stops the rotation.
const COLUMNS: &[Sealed] = &[
    sealed("idempotency", "body_sealed", "'idempotency:body:' || scope || '/' || key"),
    sealed("inbox", "body_sealed", "'inbox:body:' || provider || ':' || event_id"),
    sealed("line", "token_sealed", "'line:token:' || line_id"),
    sealed("line", "pin_sealed", "'line:pin:' || line_id"),
    sealed("heard", "text_sealed", "'heard:text:' || heard_id"),
    sealed("message", "content_sealed", "'message:content:' || message_id"),
    sealed("media", "content_sealed", "'media:content:' || media_id"),
];

/// Rows read and written at a time.
const BATCH_ROWS: i64 = 500;

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.table, self.column)
    }
}

pub(crate) async fn rotate(print: Printer) -> anyhow::Result<()> {
    let (url, vault) = config::database_and_vault()?;
    let db = wiring::connect(&url).await?;
    all_known(&db).await?;
    let mut counts = Vec::new();
    for column in COLUMNS {
        let rows = column.rotate(&db, &vault).await.with_context(|| format!("{column} stopped half-way; run it again"))?;
        counts.push(json!({ "table": column.table, "column": column.column, "resealed": rows }));
        if !print.json && rows > 0 {
            say!("{column}: {rows} sealed again");
        }
    }
    if print.json {
        say!("{}", json!({ "key": vault.sealing_key_id(), "columns": counts }));
    } else {
        say!("everything is sealed with key {}; the others may go", print.paint.bold(vault.sealing_key_id()));
    }
    Ok(())
}

/// A new table with secrets must not be forgotten here.
async fn all_known(db: &PgPool) -> anyhow::Result<()> {
    let found: Vec<(String, String)> = sqlx::query_as(
        "select table_name::text, column_name::text from information_schema.columns
         where table_schema = current_schema() and data_type = 'bytea' and column_name like '%\\_sealed' order by 1, 2",
    )
    .fetch_all(db)
    .await
    .context("the database does not tell its columns")?;
    ensure!(!found.is_empty(), "this database holds no sealed columns: run `ligne migrate` first");
    for (table, column) in found {
        if !COLUMNS.iter().any(|known| known.table == table && known.column == column) {
            bail!("{table}.{column} is sealed, but this program does not know how: use the program that made it");
        }
    }
    Ok(())
}

impl Sealed {
    /// How many rows were sealed again. A row that changes meanwhile is left to the next look.
    async fn rotate(&self, db: &PgPool, vault: &Vault) -> anyhow::Result<u64> {
        let Self { table, column, context } = self;
        let head = head(vault);
        // The names are constants of this file.
        let find = format!(
            "select ctid::text as place, {context} as context, {column} as sealed from {table}
             where {column} is not null and substring({column} from 1 for length($1)) <> $1 limit $2"
        );
        let replace = format!("update {table} set {column} = $3 where ctid = $1::tid and {column} = $2");
        let mut resealed = 0;
        loop {
            let rows = sqlx::query(AssertSqlSafe(find.clone())).bind(&head).bind(BATCH_ROWS).fetch_all(db).await?;
            if rows.is_empty() {
                return Ok(resealed);
            }
            let mut tx = db.begin().await?;
            for row in &rows {
                let (place, context, old): (String, String, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                let new = vault.reseal(&context, &old).map_err(|error| anyhow::anyhow!("{context}: {error}"))?;
                let done = sqlx::query(AssertSqlSafe(replace.clone())).bind(place).bind(&old).bind(new).execute(&mut *tx).await?;
                resealed += done.rows_affected();
            }
            tx.commit().await?;
        }
    }
}

/// What every seal of the first key begins with: the version, and the key's id with its length.
fn head(vault: &Vault) -> Vec<u8> {
    let mut seal = vault.seal("rotate:head:probe", b"");
    seal.truncate(2 + vault.sealing_key_id().len());
    seal
}

pub(crate) fn new_key(id: &str) -> anyhow::Result<()> {
    use secrecy::ExposeSecret as _;
    say!("{}", Vault::new_key(id)?.expose_secret());
    Ok(())
}
