//! A company that writes to people: its key, its lines, its templates and messages.

use crate::installation::{Installation, Order, Pace};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// A company with live lines.
pub(crate) struct Company<'a> {
    installation: &'a Installation,
    key: String,
    pub(crate) lines: Vec<Order>,
}

impl<'a> Company<'a> {
    /// Orders so many lines and returns when they are live.
    pub(crate) async fn open(installation: &'a Installation, lines: usize, pace: Pace) -> Self {
        let company = json!({
            "name": "Atlas Emploi",
            "legal": { "ice": "001234567000089", "if": "12345678", "rc": "98765", "address": "12, rue Tarik, Casablanca" },
            "plan": { "base_fee": "200.00", "price_per_message": "0.10" },
            "credit_limit": "1000000.00",
            "language": "fr",
        });
        let (status, tenant) = installation.call(Method::POST, "/v1/tenants", Some(&company)).await;
        assert_eq!(status, StatusCode::CREATED, "{tenant}");
        let path = format!("/v1/tenants/{}/keys", text(&tenant, "/id"));
        let (_, key) = installation.call(Method::POST, &path, Some(&json!({ "role": "recruiter" }))).await;
        let mut orders = Vec::new();
        for number in 0..lines {
            let name = format!("Atlas {number}");
            let order = json!({ "tenant_id": tenant["id"], "country": "MA", "display_name": name, "profile": { "about": "Recrutement" } });
            let (status, answer) = installation.call(Method::POST, "/v1/lines", Some(&order)).await;
            assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
            orders.push(Order { line: text(&answer, "/line/id"), run: text(&answer, "/run/id") });
        }
        let ends = installation.end_of(&orders, pace.still, pace.patience).await;
        assert!(ends.iter().all(|end| end == "succeeded"), "{ends:?}");
        Self { installation, key: text(&key, "/key"), lines: orders }
    }

    /// Hands in a template of this name, which takes a first name and introduces the company; its id.
    pub(crate) async fn submit(&self, name: &str) -> String {
        let template = json!({
            "name": name, "language": "fr", "category": "MARKETING", "parameter_format": "NAMED", "introduces": true,
            "components": [{ "type": "BODY", "text": "Bonjour {{prenom}}, un poste vous attend à Casablanca cette semaine.",
                "example": { "body_text_named_params": [{ "param_name": "prenom", "example": "Salma" }] } }],
        });
        let (status, answer) = self.installation.call_as(&self.key, Method::POST, "/v1/templates", Some(&template)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        text(&answer, "/template/id")
    }

    /// Meta's last word on a template.
    pub(crate) async fn status_of_template(&self, id: &str) -> String {
        let (status, template) = self.installation.call_as(&self.key, Method::GET, &format!("/v1/templates/{id}"), None).await;
        assert_eq!(status, StatusCode::OK, "{template}");
        text(&template, "/status")
    }

    /// Waits for Meta's approval of a template.
    pub(crate) async fn approved(&self, id: &str, pace: Pace) {
        let look = async || Some(self.status_of_template(id).await);
        self.installation.until(pace, look, |status| status == "APPROVED").await;
    }

    /// A message that `send` takes.
    pub(crate) fn invitation(&self, line: usize, template: &str, to: &str, delivery: &str) -> Value {
        json!({ "line_id": self.lines[line].line, "to": to, "type": "template", "delivery": delivery,
            "template": { "name": template, "language": "fr", "variables": { "prenom": "Yassine" } } })
    }

    /// Queues all of these, or none.
    pub(crate) async fn send(&self, messages: &[Value]) {
        let body = json!({ "messages": messages });
        let (status, answer) = self.installation.call_as(&self.key, Method::POST, "/v1/messages/batch", Some(&body)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        assert_eq!(answer["ids"].as_array().map(Vec::len), Some(messages.len()), "{answer}");
    }
}

fn text(answer: &Value, pointer: &str) -> String {
    answer.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {answer}")).to_owned()
}
