//! Roles and isolation over every route, driven by the document: a new route cannot be forgotten.

use crate::service::{ADMIN, Answer, Service, read};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::collections::HashMap;
use uuid::Uuid;

const ROLES: [&str; 4] = ["checkout", "recruiter", "finance", "admin"];

/// Method, path and roles of every `/v1` operation.
fn operations() -> Vec<(Method, String, Vec<String>)> {
    let document = serde_json::to_value(front::openapi()).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|_| path.starts_with("/v1/")) {
            let roles = operation["x-roles"].as_array().unwrap_or_else(|| panic!("{method} {path} names no roles"));
            let roles = roles.iter().map(|role| role.as_str().unwrap().to_owned()).collect();
            found.push((method.to_uppercase().parse().unwrap(), path.clone(), roles));
        }
    }
    found
}

fn filled(path: &str, ids: &HashMap<&str, String>) -> String {
    path.split('/')
        .map(|part| if part.starts_with('{') { "?" } else { part })
        .zip(path.split('/'))
        .map(
            |(shown, part)| {
                if shown == "?" { ids.get(part).cloned().unwrap_or_else(|| Uuid::now_v7().to_string()) } else { part.to_owned() }
            },
        )
        .collect::<Vec<_>>()
        .join("/")
}

async fn call(service: &Service, method: &Method, path: &str, key: &str) -> Answer {
    let request = service.request(method.clone(), path, key);
    // A stream that is let in never ends: its status is enough.
    if path == "/v1/events" {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        return Answer { status, headers, text: if status == 200 { String::new() } else { answer.text().await.unwrap() } };
    }
    read(if *method == Method::GET { request } else { request.json(&json!({})) }).await
}

#[sqlx::test(migrations = "../../migrations")]
async fn every_route_asks_for_a_key_and_lets_its_roles_in_alone(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let mut keys = Vec::new();
    for role in ROLES {
        keys.push((role, service.key(tenant, role).await));
    }
    for (method, path, roles) in operations() {
        assert!(!roles.is_empty(), "{method} {path} is granted to nobody");
        let path = filled(&path, &HashMap::new());
        for (key, code) in [("", "no_key"), ("lgn_wrong", "bad_key")] {
            let answer = call(&service, &method, &path, key).await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, code), "{method} {path}");
        }
        for (role, key) in &keys {
            let answer = call(&service, &method, &path, key).await;
            if roles.iter().any(|granted| granted == role) {
                let let_in = !matches!(answer.status.as_u16(), 401 | 405 | 500..)
                    && (answer.status != 403 || matches!(answer.code().as_str(), "needs_tenant" | "sandbox_only"));
                assert!(let_in, "{role} {method} {path}: {answer:?}");
            } else {
                assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "role_not_allowed"), "{role} {method} {path}");
            }
        }
    }
}

/// One of everything, of this tenant: the resource's name in a path and its id.
async fn belongings(service: &Service, tenant: Uuid) -> HashMap<&'static str, String> {
    let (line, run) = service.order(tenant).await;
    let key = service.post(&format!("/v1/tenants/{tenant}/keys"), ADMIN, &json!({ "role": "recruiter" })).await.id();
    let callback = store::callbacks::add(&service.db, tenant.into(), "http://127.0.0.1:9/", "line.status", "{}").await.unwrap();
    let line_id: Uuid = line.parse().unwrap();
    let (contact, talk, template, message) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let media = Uuid::now_v7();
    for statement in [
        format!("insert into contact (contact_id, tenant_id, name) values ('{contact}', '{tenant}', 'Salma')"),
        format!("insert into conversation (conversation_id, tenant_id, line_id, contact_id) values ('{talk}', '{tenant}', '{line_id}', '{contact}')"),
        format!(
            "insert into template (template_id, tenant_id, name, meta_name, messaging_account, language, category, components, parameter_format)
             values ('{template}', '{tenant}', 'hello', 't_hello', '100', 'fr', 'UTILITY', '[]', 'NAMED')"
        ),
        format!(
            "insert into message (message_id, tenant_id, line_id, contact_id, conversation_id, direction, type, status)
             values ('{message}', '{tenant}', '{line_id}', '{contact}', '{talk}', 'out', 'text', 'queued')"
        ),
        format!("insert into media (media_id, tenant_id, line_id, mime_type) values ('{media}', '{tenant}', '{line_id}', 'image/png')"),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&service.db).await.unwrap();
    }
    let invoice = crate::billing::billed(service, tenant).await;
    HashMap::from([
        ("tenants", tenant.to_string()),
        ("lines", line),
        ("runs", run),
        ("keys", key),
        ("callbacks", callback.to_string()),
        ("contacts", contact.to_string()),
        ("conversations", talk.to_string()),
        ("templates", template.to_string()),
        ("messages", message.to_string()),
        ("media", media.to_string()),
        // Of the installation: many companies share one.
        ("accounts", Uuid::now_v7().to_string()),
        ("invoices", invoice),
        // Everybody's; what a company may not do with it is told by its name being wrong.
        ("months", "2026-13".to_owned()),
        // Of nobody: an operator's, whatever the id.
        ("quarantine", Uuid::now_v7().to_string()),
        ("jobs", Uuid::now_v7().to_string()),
    ])
}

#[sqlx::test(migrations = "../../migrations")]
async fn nothing_of_another_company_exists(db: PgPool) {
    let service = Service::open(db).await;
    let (own, other) = (service.tenant("Atlas").await, service.tenant("Rif").await);
    let theirs = belongings(&service, other).await;
    let _ours = belongings(&service, own).await;
    for role in ["recruiter", "finance"] {
        let key = service.key(own, role).await;
        for (method, path, roles) in operations() {
            let parts: Vec<_> = path.split('/').collect();
            let ids: HashMap<_, _> = parts
                .windows(2)
                .filter(|pair| pair[1].starts_with('{'))
                .map(|pair| {
                    let id = theirs
                        .get(pair[0])
                        .unwrap_or_else(|| panic!("{method} {path}: say in `belongings` what a company has of {}", pair[0]));
                    (pair[1], id.clone())
                })
                .collect();
            let answer = call(&service, &method, &filled(&path, &ids), &key).await;
            let shown = theirs.values().find(|id| answer.text.contains(*id) && !path.is_empty());
            assert_eq!(shown, None, "{role} {method} {path}: {answer:?}");
            if !ids.is_empty() {
                let granted = roles.iter().any(|granted| granted == role);
                // Some bodies are refused before anything is looked up, and so tell nothing.
                let refused = matches!(answer.status.as_u16(), 404 | 403) || (granted && answer.status == 422);
                assert!(
                    refused && (answer.status == 404 || !granted || answer.status == 422),
                    "{role} {method} {path}: {answer:?}"
                );
            }
        }
    }
    // Their own key finds each of them.
    let key = service.key(other, "recruiter").await;
    for name in ["tenants", "lines", "runs"] {
        assert_eq!(service.get(&format!("/v1/{name}/{}", theirs[name]), &key).await.status, 200, "{name}");
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_revoked_key_opens_nothing(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let made = service.post(&format!("/v1/tenants/{tenant}/keys"), ADMIN, &json!({ "role": "recruiter" })).await.json();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert!(key.starts_with("lgn_") && key.len() > 40);
    assert_eq!(service.get("/v1/lines", key).await.status, 200);
    let revoked = read(service.request(Method::DELETE, &format!("/v1/tenants/{tenant}/keys/{id}"), ADMIN)).await;
    assert!(revoked.json()["revoked_at"].is_string());
    assert_eq!(service.get("/v1/lines", key).await.code(), "bad_key");
    let listed = service.get(&format!("/v1/tenants/{tenant}/keys"), ADMIN).await;
    assert!(!listed.text.contains(key), "a list shows no secret");
    let kept: Vec<u8> = sqlx::query_scalar("select hash from api_key").fetch_one(&service.db).await.unwrap();
    assert_eq!(kept, store::keys::hash(key));
}

#[sqlx::test(migrations = "../../migrations")]
async fn checkout_and_admin_keys_belong_to_the_installation(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    for (role, owner) in
        [("checkout", Value::Null), ("admin", Value::Null), ("finance", json!(tenant)), ("recruiter", json!(tenant))]
    {
        let made = service.post(&format!("/v1/tenants/{tenant}/keys"), ADMIN, &json!({ "role": role })).await.json();
        assert_eq!(made["tenant_id"], owner, "{role}");
    }
    let refused = service.post("/v1/keys", ADMIN, &json!({ "role": "recruiter" })).await;
    assert_eq!(refused.code(), "role_needs_tenant");
    let operator = service.post("/v1/keys", ADMIN, &json!({ "role": "finance" })).await.json();
    let seen = service.get("/v1/tenants", operator["key"].as_str().unwrap()).await.json();
    assert_eq!(seen["data"].as_array().unwrap().len(), 1);
}
