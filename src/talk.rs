//! `template` and `message` from the terminal, and the CSV files that campaigns are made of.

use crate::{
    cli::{Message, SendMessage, Template, Verdict},
    client::{Client, Printer, end_of},
    terminal::at,
};
use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value, json};
use std::path::Path;
use uuid::Uuid;

/// Most messages of one call.
const BATCH_MAX: usize = 10_000;

const TEMPLATE_COLUMNS: &[&str] = &["id", "name", "language", "category", "status", "quality", "times_sent", "reason"];
const MESSAGE_COLUMNS: &[&str] = &["id", "direction", "type", "status", "attempts", "waiting_for", "created_at"];

pub(crate) async fn template(verb: Template, print: Printer) -> anyhow::Result<()> {
    let api = Client::from_env()?;
    match verb {
        Template::List(page) => {
            let cursor = page.cursor.map(|cursor| format!("?cursor={cursor}")).unwrap_or_default();
            print.list(&api.get(&format!("/v1/templates{cursor}")).await?, TEMPLATE_COLUMNS);
        }
        Template::Show { id } => print.one(&api.get(&format!("/v1/templates/{id}")).await?),
        Template::Create { file, wait } => {
            let body: Value = serde_json::from_str(&read(&file)?).with_context(|| format!("{} is not JSON", file.display()))?;
            let answer = api.post("/v1/templates", &body, None).await?;
            return finish(&api, &answer, wait, print).await;
        }
        Template::Delete { id, wait } => {
            let answer = api.delete(&format!("/v1/templates/{id}")).await?;
            return finish(&api, &answer, wait, print).await;
        }
    }
    Ok(())
}

async fn finish(api: &Client, answer: &Value, wait: bool, print: Printer) -> anyhow::Result<()> {
    if wait {
        let run = answer.pointer("/run/id").and_then(Value::as_str).context("the service's answer names no run")?;
        return end_of(api, run, print).await;
    }
    print.one(answer);
    Ok(())
}

pub(crate) async fn message(verb: Message, print: Printer) -> anyhow::Result<()> {
    let api = Client::from_env()?;
    match verb {
        Message::Send(send) => print.one(&api.post("/v1/messages", &body(&send)?, send.idempotency_key.as_deref()).await?),
        Message::Batch { file, line, template, language, campaign, idempotency_key } => {
            let frame = Frame { line, template: &template, language: &language, campaign: campaign.as_deref() };
            let messages = frame.messages(&read(&file)?).with_context(|| format!("{} cannot be used", file.display()))?;
            let key = idempotency_key.unwrap_or_else(|| Uuid::new_v4().to_string());
            let mut ids = Vec::new();
            for (part, some) in messages.chunks(BATCH_MAX).enumerate() {
                let answer = api
                    .post("/v1/messages/batch", &json!({ "messages": some }), Some(&format!("{key}-{part}")))
                    .await
                    .with_context(|| format!("{} of {} messages are queued", ids.len(), messages.len()))?;
                ids.extend(answer["ids"].as_array().cloned().unwrap_or_default());
            }
            if print.json { say!("{}", json!({ "ids": ids })) } else { say!("queued: {}", ids.len()) }
        }
        Message::List { conversation, status, page } => {
            let path = match conversation {
                Some(id) => format!("/v1/conversations/{id}/messages?"),
                None => format!("/v1/messages?status={status}"),
            };
            let cursor = page.cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            print.list(&api.get(&format!("{path}{cursor}")).await?, MESSAGE_COLUMNS);
        }
        Message::Show { id } => {
            let message = api.get(&format!("/v1/messages/{id}")).await?;
            print.one(&message);
            if let Some(why) = waits(&message).filter(|_| !print.json) {
                say!("\n{}", print.paint.yellow(why));
            }
        }
        Message::Decide { id, verdict } => {
            let decision = match verdict {
                Verdict::Again => "again",
                Verdict::GiveUp => "give_up",
            };
            print.one(&api.post(&format!("/v1/messages/{id}/decide"), &json!({ "decision": decision }), None).await?);
        }
    }
    Ok(())
}

/// Why a message waits, where in the queue and until when, in one sentence.
fn waits(message: &Value) -> Option<String> {
    let why = at(message, "waiting_for").as_str()?;
    let mut sentence = format!("waits for {why}");
    if let Some(position) = message["position"].as_i64() {
        sentence.push_str(&format!("; {position} before it"));
    }
    if let Some(eta) = message["eta"].as_str() {
        sentence.push_str(&format!("; expected to go at {eta}"));
    }
    Some(sentence)
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

fn body(send: &SendMessage) -> anyhow::Result<Value> {
    let mut body = json!({ "line_id": send.line });
    // A BSUID begins with its country: `MA.…`.
    body[if send.to.starts_with('+') { "to" } else { "recipient" }] = json!(send.to);
    match (&send.text, &send.template, &send.body) {
        (Some(text), None, None) => {
            body["type"] = json!("text");
            body["text"] = json!({ "body": text });
        }
        (None, Some(name), None) => {
            let variables: Map<String, Value> = send.variables.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            body["type"] = json!("template");
            body["template"] = json!({ "name": name, "language": send.language, "variables": variables });
        }
        (None, None, Some(text)) => {
            let Value::Object(fields) = serde_json::from_str(text).context("--body is not JSON")? else {
                bail!("--body is no JSON object");
            };
            for (name, value) in fields {
                body[name] = value;
            }
        }
        _ => bail!("say what: one of --text, --template and --body"),
    }
    Ok(body)
}

/// What all messages of a campaign share.
pub(crate) struct Frame<'a> {
    pub(crate) line: Uuid,
    pub(crate) template: &'a str,
    pub(crate) language: &'a str,
    pub(crate) campaign: Option<&'a str>,
}

impl Frame<'_> {
    /// One message per row of a CSV file: the column `to` is whom to write to, every other column is a variable of that name.
    pub(crate) fn messages(&self, file: &str) -> anyhow::Result<Vec<Value>> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file.as_bytes());
        let columns: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
        ensure!(columns.iter().any(|column| column == "to"), "no column is called \"to\"");
        let mut messages = Vec::new();
        for row in reader.records() {
            let row = row?;
            let (mut to, mut variables) = ("", Map::new());
            for (column, value) in columns.iter().zip(row.iter()) {
                if column == "to" {
                    to = value;
                } else {
                    variables.insert(column.clone(), json!(value));
                }
            }
            let mut message = json!({ "line_id": self.line, "type": "template",
                "template": { "name": self.template, "language": self.language, "variables": variables } });
            message[if to.starts_with('+') { "to" } else { "recipient" }] = json!(to);
            if let Some(campaign) = self.campaign {
                message["campaign"] = json!(campaign);
            }
            messages.push(message);
        }
        ensure!(!messages.is_empty(), "no row follows the headings");
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_message_and_every_other_column_a_variable() {
        let frame = Frame { line: Uuid::nil(), template: "offre", language: "fr", campaign: Some("mai") };
        let messages = frame.messages("to,prenom\n+212600000001, Salma\nMA.123,\"Benali, Omar\"\n").unwrap();
        assert_eq!(messages.len(), 2);
        assert_eq!((&messages[0]["to"], &messages[1]["recipient"]), (&json!("+212600000001"), &json!("MA.123")));
        assert_eq!(messages[1]["template"]["variables"], json!({ "prenom": "Benali, Omar" }));
        assert_eq!(messages[0]["campaign"], "mai");
        for bad in ["", "to\n", "phone,name\n1,2\n", "to,name\n+2126\n"] {
            assert!(frame.messages(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_waiting_message_says_why_where_and_until_when() {
        let message = json!({ "waiting_for": "its turn", "position": 12, "eta": "2026-11-21T08:00:00Z" });
        assert_eq!(waits(&message).unwrap(), "waits for its turn; 12 before it; expected to go at 2026-11-21T08:00:00Z");
        assert_eq!(waits(&json!({ "waiting_for": null })), None);
    }
}
