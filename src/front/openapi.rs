//! `/openapi.json` and `/docs`: the API described by its own code.

use crate::{
    App,
    caller::{self},
    problem::Code,
};
use axum::{Json, Router, http::Method, routing::get};
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;
use utoipa::{
    OpenApi as _, ToSchema,
    openapi::{
        Components, Content, ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder,
        path::Operation,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_swagger_ui::{Config, SwaggerUi};

const SCHEME: &str = "api_key";

/// A refusal (RFC 9457), `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
struct ProblemView {
    r#type: String,
    title: String,
    status: u16,
    /// Stable; the values are listed in `x-problem-codes`.
    code: String,
    detail: String,
    /// The field that broke a rule.
    field: Option<String>,
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Ligne", description = "A WhatsApp line for every company: ordered, followed, used and billed."),
    components(schemas(ProblemView)),
    tags(
        (name = "tenants", description = "Client companies"),
        (name = "keys", description = "API keys"),
        (name = "lines", description = "WhatsApp lines"),
        (name = "runs", description = "Executions of workflows"),
        (name = "templates", description = "What may be said first"),
        (name = "messages", description = "What is sent, and files"),
        (name = "contacts", description = "People, and what is said with them"),
        (name = "billing", description = "Months, invoices, payments"),
        (name = "events", description = "What happens, live"),
        (name = "webhooks", description = "What the providers tell us"),
        (name = "operations", description = "For operators"),
        (name = "sandbox", description = "Time travel"),
    )
)]
struct Frame;

pub(crate) fn frame() -> OpenApi {
    let mut document = Frame::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document
}

/// What every operation has in common: problems, and for `/v1` the key and its roles.
pub(crate) fn complete(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let operations = [
            (Method::GET, &mut item.get),
            (Method::POST, &mut item.post),
            (Method::PATCH, &mut item.patch),
            (Method::PUT, &mut item.put),
            (Method::DELETE, &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                describe(path, &method, operation);
            }
        }
    }
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("lgn_…").build();
    document.components.get_or_insert_with(Components::new).add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
    let codes: Vec<_> =
        Code::ALL.iter().map(|Code { status, code, title }| json!({ "code": code, "status": status, "title": title })).collect();
    document.extensions.get_or_insert_default().insert("x-problem-codes".to_owned(), codes.into());
}

fn describe(path: &str, method: &Method, operation: &mut Operation) {
    let content: Content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let problem: Response =
        ResponseBuilder::new().description("A problem document").content("application/problem+json", content).build();
    operation.responses.responses.insert("default".to_owned(), RefOr::T(problem));
    if path.starts_with("/v1/") {
        operation.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(SCHEME, [])]);
        let roles: Vec<_> = caller::granted(method, path).iter().map(|role| role.as_str()).collect();
        operation.extensions.get_or_insert_default().insert("x-roles".to_owned(), json!(roles));
    }
}

pub(crate) fn routes(document: OpenApi) -> Router<App> {
    let document = Arc::new(document);
    Router::new()
        .route("/openapi.json", get(async move || Json(document.clone())))
        .merge(SwaggerUi::new("/docs").config(Config::from("/openapi.json").try_it_out_enabled(true)))
}
