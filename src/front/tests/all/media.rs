//! Files: what is taken, what is refused, and who may see them.

use crate::service::{ADMIN, Answer, Service, read};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

const PNG: &[u8] = b"\x89PNG\r\n\x1A\n and the rest";

async fn upload(service: &Service, key: &str, line: &str, mime_type: &str, file: &[u8], idempotency_key: &str) -> Answer {
    let request = service.request(Method::POST, &format!("/v1/media?line_id={line}&filename=photo.png"), key);
    let request = request.header("content-type", mime_type).header("idempotency-key", idempotency_key);
    read(request.body(file.to_vec())).await
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_file_is_taken_once_shown_to_its_company_alone_and_erased(db: PgPool) {
    let service = Service::open(db).await;
    let (own, other) = (service.tenant("Atlas").await, service.tenant("Rif").await);
    let (key, their_key) = (service.key(own, "recruiter").await, service.key(other, "recruiter").await);
    let (line, _) = service.order(own).await;
    let answer = upload(&service, &key, &line, "image/png", PNG, "photo-1").await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(answer.json()["expires_at"].is_string());
    let id = answer.id();
    // The answer was lost and the file is sent again.
    assert_eq!(upload(&service, &key, &line, "image/png", PNG, "photo-1").await.id(), id);
    assert_eq!(
        upload(&service, &key, &line, "image/png", b"\x89PNG\r\n\x1A\n other", "photo-1").await.code(),
        "idempotency_key_reused"
    );
    assert_eq!(service.count("media").await, 1);

    let shown = service.get(&format!("/v1/media/{id}"), &key).await.json();
    assert_eq!(
        (&shown["status"], &shown["mime_type"], &shown["size_bytes"]),
        (&json!("ready"), &json!("image/png"), &json!(PNG.len()))
    );
    let content = service.request(Method::GET, &format!("/v1/media/{id}/content"), &key).send().await.unwrap();
    assert_eq!(content.headers()["content-type"], "image/png");
    assert_eq!(content.headers()["x-content-type-options"], "nosniff");
    assert_eq!(content.bytes().await.unwrap(), PNG);
    let kept: Vec<u8> = sqlx::query_scalar("select content_sealed from media").fetch_one(&service.db).await.unwrap();
    assert!(!kept.windows(8).any(|window| window == b" and the"));

    for path in ["", "/content"] {
        assert_eq!(service.get(&format!("/v1/media/{id}{path}"), &their_key).await.code(), "not_found");
    }
    assert_eq!(read(service.request(Method::DELETE, &format!("/v1/media/{id}"), &their_key)).await.code(), "not_found");
    assert_eq!(upload(&service, &their_key, &line, "image/png", PNG, "x").await.code(), "not_found");
    for _ in 0..2 {
        assert_eq!(read(service.request(Method::DELETE, &format!("/v1/media/{id}"), &key)).await.status, 204);
    }
    assert_eq!(service.get(&format!("/v1/media/{id}/content"), &key).await.code(), "media_gone");
    assert_eq!(service.get(&format!("/v1/media/{id}"), &key).await.json()["status"], "erased");
}

#[sqlx::test(migrations = "../../migrations")]
async fn what_whatsapp_does_not_take_is_refused_at_once(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let key = service.key(tenant, "recruiter").await;
    let (line, _) = service.order(tenant).await;
    let large = [PNG, &vec![0; 5 << 20][..]].concat();
    let cases: [(&str, &[u8], u16, &str); 6] = [
        ("image/gif", b"GIF89a", 415, "media_type"),
        ("text/html", b"<script>", 415, "media_type"),
        ("", PNG, 415, "media_type"),
        ("image/png", b"GIF89a", 422, "media_content"),
        ("image/png", b"", 422, "media_content"),
        ("image/png", &large, 413, "media_too_large"),
    ];
    for (mime_type, file, status, code) in cases {
        let answer = upload(&service, &key, &line, mime_type, file, &Uuid::new_v4().to_string()).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{mime_type}");
    }
    let nobody = upload(&service, &key, &Uuid::new_v4().to_string(), "image/png", PNG, "n").await;
    assert_eq!(nobody.code(), "not_found");
    assert_eq!(upload(&service, &key, "x", "image/png", PNG, "n").await.code(), "bad_query");
    assert_eq!(upload(&service, ADMIN, &line, "image/png", PNG, "n").await.code(), "role_not_allowed");
    assert_eq!(service.count("media").await, 0);
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_form_is_taken_as_meta_takes_it(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let key = service.key(tenant, "recruiter").await;
    let (line, _) = service.order(tenant).await;
    let file = |bytes: &[u8], mime_type: &str| {
        Form::new().part("file", Part::bytes(bytes.to_vec()).file_name("photo.png").mime_str(mime_type).unwrap())
    };
    let post = |form: Form, idempotency_key: &str| {
        let request = service.request(Method::POST, "/v1/media", &key).header("idempotency-key", idempotency_key);
        read(request.multipart(form))
    };
    let whole = || Form::new().text("messaging_product", "whatsapp").text("line_id", line.clone());
    let with = |form: Form, bytes: &[u8], mime_type: &str| {
        form.part("file", Part::bytes(bytes.to_vec()).file_name("photo.png").mime_str(mime_type).unwrap())
    };
    let taken = post(with(whole(), PNG, "image/png"), "form-1").await;
    assert_eq!(taken.status, 201, "{taken:?}");
    // Sent again, a form has another boundary and is the same request.
    assert_eq!(post(with(whole(), PNG, "image/png"), "form-1").await.id(), taken.id());
    assert_eq!(post(with(whole(), b"\x89PNG\r\n\x1A\n other", "image/png"), "form-1").await.code(), "idempotency_key_reused");
    let shown = service.get(&format!("/v1/media/{}", taken.id()), &key).await.json();
    assert_eq!((&shown["mime_type"], &shown["filename"]), (&json!("image/png"), &json!("photo.png")));
    // The field `type` names what the part does not.
    let named = post(with(whole().text("type", "image/png"), PNG, "application/octet-stream"), "form-2").await;
    assert_eq!(service.get(&format!("/v1/media/{}", named.id()), &key).await.json()["mime_type"], "image/png");

    let large = |mark: &[u8], size: usize| [mark, &vec![0; size][..]].concat();
    let cases = [
        (whole(), 400, "bad_form"),
        (file(PNG, "image/png"), 400, "bad_query"),
        (with(with(whole(), PNG, "image/png"), PNG, "image/png"), 400, "bad_form"),
        (with(whole(), b"GIF89a", "image/gif"), 415, "media_type"),
        (with(whole(), b"GIF89a", "image/png"), 422, "media_content"),
        (with(whole(), &large(PNG, 5 << 20), "image/png"), 413, "media_too_large"),
        (with(whole(), &large(b"OggS", 16 << 20), "audio/ogg"), 413, "media_too_large"),
        (with(whole(), &large(b"RIFF\0\0\0\0WEBPVP8 ", 100 << 10), "image/webp"), 413, "media_too_large"),
        (whole().text("filename", "x".repeat(5_000)), 400, "bad_form"),
    ];
    for (place, (form, status, code)) in cases.into_iter().enumerate() {
        let answer = post(form, &format!("bad-{place}")).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{place}");
    }
    let broken = service.request(Method::POST, "/v1/media", &key).header("content-type", "multipart/form-data; boundary=b");
    assert_eq!(read(broken.body("--b\r\ncontent-disp")).await.code(), "bad_form");
    let unbound = service.request(Method::POST, "/v1/media", &key).header("content-type", "multipart/form-data");
    assert_eq!(read(unbound.body("x")).await.code(), "bad_form");
    assert_eq!(service.count("media").await, 2);
}

#[sqlx::test(migrations = "../../migrations")]
async fn only_an_operator_lets_a_stopped_line_go_on(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let key = service.key(tenant, "recruiter").await;
    let (line, _) = service.order(tenant).await;
    let path = format!("/v1/lines/{line}/resume");
    store::lanes::stop(&service.db, line.parse().unwrap(), "Meta says so", None).await.unwrap();
    assert_eq!(service.post(&path, &key, &json!({})).await.code(), "role_not_allowed");
    assert_eq!(service.post(&path, ADMIN, &json!({})).await.json(), json!({ "resumed": true }));
    assert_eq!(service.post(&path, ADMIN, &json!({})).await.json(), json!({ "resumed": false }));
    assert_eq!(service.post(&format!("/v1/lines/{}/resume", Uuid::new_v4()), ADMIN, &json!({})).await.code(), "not_found");
    assert_eq!(service.post("/v1/accounts/nobody/resume", ADMIN, &json!({})).await.code(), "not_found");
}
