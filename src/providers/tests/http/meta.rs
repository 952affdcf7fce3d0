//! What is sent to Meta, and what is made of its answers.

use crate::server::{self, Server, answer, bytes};
use bytes::Bytes;
use chrono::DateTime;
use domain::Kind;
use providers::meta::{
    self, Acceptance, Added, AnalyticsQuery, CodeMethod, CodeRequested, CodeStatus, NameStatus, NewTemplate, NumberStatus,
    Profile, QualityScore, Recipient, Sending, TemplateCategory, TemplateStatus, Throughput, UploadSession, Verified, body,
};
use secrecy::SecretString;
use serde_json::{Value, json};

fn secret(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}

fn refused(code: i64, subcode: Option<i64>, message: &str) -> Value {
    json!({"error": {"code": code, "error_subcode": subcode, "message": message, "fbtrace_id": "A1b2"}})
}

#[test]
fn the_proof_is_the_published_one() {
    let proof = meta::proof(&secret("demo-app-secret-do-not-use"), &secret("EAAdemo-token"));
    assert_eq!(proof, "d27f324670e090ff1d53ece9589543fe968ccc0e30f886f464fc4492decb7cd7");
}

#[tokio::test]
async fn the_token_travels_in_a_header_and_the_proof_beside_it() {
    let server = Server::always(200, json!({"id": "401"})).await;
    server::meta(&server.url).with_proof().account().await.unwrap();
    let asked = server.only();
    assert_eq!(asked.line(), "GET /v25.0/401");
    assert_eq!(asked.header("authorization"), "Bearer TOKEN-meta");
    let proof = meta::proof(&secret("app-secret"), &secret("TOKEN-meta"));
    assert!(asked.query().contains(&format!("appsecret_proof={proof}")));
    assert!(!asked.raw_query.contains("TOKEN"));
}

#[tokio::test]
async fn a_customers_account_has_its_own_token() {
    let server = Server::always(200, json!({"id": "402"})).await;
    server::meta(&server.url).with_account("402", "biz-2", secret("TOKEN-other")).account().await.unwrap();
    assert_eq!(server.only().header("authorization"), "Bearer TOKEN-other");
    assert_eq!(server.only().path, "/v25.0/402");
}

#[tokio::test]
async fn a_number_is_adopted_however_meta_prints_it_and_added_only_if_absent() {
    let server = Server::start(|asked| match (asked.method.as_str(), asked.query().iter().any(|pair| pair == "after=c1")) {
        ("POST", _) => answer(200, &json!({"id": 512233445566778_i64})),
        (_, false) => answer(
            200,
            &json!({"data": [{"id": "1", "display_phone_number": "+212 522-000000"}],
            "paging": {"cursors": {"before": "c0", "after": "c1"}, "next": "https://graph.example/next"}}),
        ),
        _ => answer(
            200,
            &json!({"data": [{"id": "2", "display_phone_number": "+212 520-000042"}], "paging": {"cursors": {"after": "c2"}}}),
        ),
    })
    .await;
    let meta = server::meta(&server.url);
    assert_eq!(meta.add_or_adopt("212", "520000042", "Atlas").await.unwrap(), Added::Number("2".to_owned()));
    assert_eq!(meta.add_or_adopt("212", "520000043", "Atlas").await.unwrap(), Added::Number("512233445566778".to_owned()));
    let asked = server.asked();
    let posts: Vec<_> = asked.iter().filter(|asked| asked.method == "POST").collect();
    assert_eq!(posts.len(), 1);
    assert_eq!(posts[0].json(), json!({"cc": "212", "phone_number": "520000043", "verified_name": "Atlas"}));
}

#[tokio::test]
async fn expected_refusals_of_a_new_number_are_answers() {
    let add = async |body: Value| {
        let server = Server::always(400, body).await;
        server::meta(&server.url).add_number("212", "520000042", "Atlas").await
    };
    assert_eq!(add(refused(200, Some(1349175), "limit")).await.unwrap(), Added::CapReached);
    let taken = "(#100) The phone number is already registered with WhatsApp Business.";
    assert_eq!(add(refused(100, None, taken)).await.unwrap(), Added::OnWhatsApp);
    assert_eq!(add(refused(100, None, "(#100) Invalid name")).await.unwrap_err().kind, Kind::Rejected);
}

#[tokio::test]
async fn a_number_is_read_with_its_nulls_and_news() {
    let server = Server::always(
        200,
        json!({"id": 512233445566778_i64, "display_phone_number": "+212 520-000042", "verified_name": null, "status": "CONNECTED",
            "code_verification_status": "VERIFIED", "name_status": "SOMETHING_NEW", "quality_rating": "GREEN", "throughput": {"level": "HIGH"},
            "whatsapp_business_manager_messaging_limit": "TIER_2K", "platform_type": "CLOUD_API", "is_pin_enabled": true, "is_on_biz_app": null,
            "brand_new_field": [1, 2]}),
    )
    .await;
    let number = server::meta(&server.url).number("512233445566778").await.unwrap();
    assert!(number.is_connected() && number.is_verified() && number.is_pin_enabled && !number.is_on_biz_app);
    assert_eq!(number.id, "512233445566778");
    assert_eq!(number.throughput, Throughput::High);
    assert_eq!(number.name_status, NameStatus::Other("SOMETHING_NEW".to_owned()));
    assert_eq!(number.new_name_status, NameStatus::Other(String::new()));
    assert_eq!(serde_json::from_value::<meta::PhoneNumber>(json!(number)).unwrap(), number, "what is recorded is read back");
    let fields = server.only().query().remove(0);
    assert!(!fields.contains("health_status"), "dear, and asked for apart");
    for field in
        ["name_status", "new_name_status", "code_verification_status", "is_pin_enabled", "throughput", "webhook_configuration"]
    {
        assert!(fields.contains(field), "{field}");
    }
}

#[tokio::test]
async fn a_number_that_is_not_there_has_its_own_code() {
    let server = Server::always(400, refused(100, Some(33), "Unsupported get request.")).await;
    let failure = server::meta(&server.url).number("1").await.unwrap_err();
    assert_eq!((failure.kind, failure.code.as_deref()), (Kind::Rejected, Some("100.33")));
}

#[tokio::test]
async fn health_names_who_stands_in_the_way() {
    let server = Server::always(
        200,
        json!({"id": "512", "health_status": {"can_send_message": "BLOCKED", "entities": [
            {"entity_type": "PHONE_NUMBER", "id": "512", "can_send_message": "AVAILABLE"},
            {"entity_type": "WABA", "id": "401", "can_send_message": "BLOCKED", "errors": [{"error_code": 141006, "error_description": "No payment method", "possible_solution": "Add one"}]}]}}),
    )
    .await;
    let health = server::meta(&server.url).health("512").await.unwrap();
    assert_eq!(health.can_send_message, Sending::Blocked);
    assert_eq!(health.trouble().as_deref(), Some("WABA BLOCKED: No payment method"));
}

#[tokio::test]
async fn a_code_is_asked_for_in_the_query_and_given_in_the_body() {
    let server = Server::always(200, json!({"success": true})).await;
    let meta = server::meta(&server.url);
    assert_eq!(meta.request_code("512", CodeMethod::Voice, "fr").await.unwrap(), CodeRequested::Sent);
    assert_eq!(meta.verify_code("512", &secret("123-830")).await.unwrap(), Verified::Yes);
    let asked = server.asked();
    assert_eq!(asked[0].line(), "POST /v25.0/512/request_code");
    assert_eq!(asked[0].query(), ["code_method=VOICE", "language=fr"]);
    assert_eq!(asked[1].line(), "POST /v25.0/512/verify_code");
    assert_eq!(&asked[1].body[..], b"code=123830");
    assert_eq!(asked[1].raw_query, "");
}

#[tokio::test]
async fn wrong_codes_and_verified_numbers_are_answers_and_no_failure_quotes_a_secret() {
    let server = Server::always(400, refused(136024, None, "Already verified")).await;
    assert_eq!(server::meta(&server.url).request_code("512", CodeMethod::Sms, "ar").await.unwrap(), CodeRequested::Refused);
    let server = Server::always(400, refused(136025, None, "Wrong code")).await;
    assert_eq!(server::meta(&server.url).verify_code("512", &secret("123830")).await.unwrap(), Verified::Wrong);
    let server = Server::always(400, refused(131009, None, "The value 482913 is invalid")).await;
    let meta = server::meta(&server.url);
    for failure in
        [meta.verify_code("512", &secret("482913")).await.map(drop), meta.register("512", &secret("482913"), None).await]
    {
        let failure = failure.unwrap_err();
        assert!(failure.why.contains("***") && !failure.why.contains("482913"), "{failure}");
    }
}

#[tokio::test]
async fn registration_says_pin_and_place_and_its_refusals_are_told_apart() {
    let server = Server::always(200, json!({"success": true})).await;
    let meta = server::meta(&server.url);
    meta.register("512", &secret("482913"), Some("DE")).await.unwrap();
    meta.deregister("512").await.unwrap();
    meta.set_pin("512", &secret("111222")).await.unwrap();
    meta.request_display_name("512", "Atlas Emploi").await.unwrap();
    let asked = server.asked();
    assert_eq!(asked[0].json(), json!({"messaging_product": "whatsapp", "pin": "482913", "data_localization_region": "DE"}));
    assert_eq!(asked[1].line(), "POST /v25.0/512/deregister");
    assert_eq!(asked[2].json(), json!({"pin": "111222"}));
    assert_eq!(asked[3].query(), ["new_display_name=Atlas Emploi"]);
    let cases = [
        (133000, Kind::Rejected),
        (133004, Kind::Transient),
        (133005, Kind::Rejected),
        (133006, Kind::Rejected),
        (133008, Kind::Throttled),
        (133009, Kind::Throttled),
        (133015, Kind::Throttled),
        (133016, Kind::Throttled),
        (131031, Kind::Unauthorized),
    ];
    for (code, kind) in cases {
        let server = Server::always(400, refused(code, None, "no")).await;
        let failure = server::meta(&server.url).register("512", &secret("482913"), None).await.unwrap_err();
        assert_eq!((failure.kind, failure.code), (kind, Some(code.to_string())));
    }
}

#[tokio::test]
async fn success_false_is_a_refusal() {
    let server = Server::always(200, json!({"success": false})).await;
    assert_eq!(server::meta(&server.url).deregister("512").await.unwrap_err().kind, Kind::Rejected);
}

#[tokio::test]
async fn a_profile_is_set_and_read() {
    let server = Server::start(|asked| match asked.method.as_str() {
        "POST" => answer(200, &json!({"success": true})),
        _ => answer(200, &json!({"data": [{"about": "Recrutement", "websites": null, "messaging_product": "whatsapp"}]})),
    })
    .await;
    let meta = server::meta(&server.url);
    let profile =
        Profile { about: Some("Recrutement".to_owned()), profile_picture_handle: Some("4::aW".to_owned()), ..Profile::default() };
    meta.set_profile("512", &profile).await.unwrap();
    assert_eq!(meta.profile("512").await.unwrap().about.as_deref(), Some("Recrutement"));
    let asked = server.asked();
    assert_eq!(
        asked[0].json(),
        json!({"messaging_product": "whatsapp", "about": "Recrutement", "profile_picture_handle": "4::aW"})
    );
}

#[tokio::test]
async fn an_upload_that_breaks_off_goes_on_where_it_was() {
    let server = Server::start(|asked| match (asked.method.as_str(), asked.path.as_str(), asked.header("file_offset")) {
        ("POST", "/v25.0/app-1/uploads", _) => answer(200, &json!({"id": "upload:MTphdHR?sig=x"})),
        ("POST", _, "0") => bytes(502, "bad gateway"),
        ("POST", _, "4") => answer(200, &json!({"h": "4::handle"})),
        ("GET", ..) => answer(200, &json!({"id": "upload:MTphdHR", "file_offset": 4})),
        other => panic!("{other:?}"),
    })
    .await;
    let handle = server::meta(&server.url).upload("logo.png", "image/png", Bytes::from_static(b"0123456789")).await.unwrap();
    assert_eq!(handle, "4::handle");
    let asked = server.asked();
    assert_eq!(asked[0].query(), ["file_name=logo.png", "file_length=10", "file_type=image/png"]);
    assert_eq!(asked[1].path, "/v25.0/upload:MTphdHR%3Fsig=x");
    assert_eq!(&asked[3].body[..], b"456789");
    let beyond = server::meta(&server.url)
        .upload_send(&UploadSession { id: "upload:1".to_owned() }, 11, Bytes::from_static(b"0123456789"))
        .await;
    assert_eq!(beyond.unwrap_err().kind, Kind::Rejected);
}

#[tokio::test]
async fn subscribing_keeps_or_clears_the_override_as_told() {
    let server = Server::start(|asked| match asked.method.as_str() {
        "GET" => answer(200, &json!({"data": [{"whatsapp_business_api_data": {"id": "app-1", "name": "Ligne", "link": "x"}, "override_callback_uri": "https://a.example"}, {}]})),
        _ => answer(200, &json!({"success": true})),
    })
    .await;
    let meta = server::meta(&server.url);
    meta.subscribe(None).await.unwrap();
    meta.subscribe(Some(("https://a.example/hook", &secret("verify-me")))).await.unwrap();
    let apps = meta.subscribed_apps().await.unwrap();
    assert_eq!((apps.len(), apps[0].id.as_str()), (1, "app-1"));
    let asked = server.asked();
    assert!(asked[0].body.is_empty());
    assert_eq!(asked[1].json(), json!({"override_callback_uri": "https://a.example/hook", "verify_token": "verify-me"}));
}

#[tokio::test]
async fn the_account_and_its_portfolio_are_read() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/v25.0/401" => answer(200, &json!({"id": "401", "currency": "USD", "timezone_id": 101, "account_review_status": "APPROVED", "primary_funding_id": null})),
        "/v25.0/512" => answer(200, &json!({"id": "512", "whatsapp_business_manager_messaging_limit": "TIER_10K"})),
        other => panic!("{other}"),
    })
    .await;
    let meta = server::meta(&server.url);
    let account = meta.account().await.unwrap();
    assert_eq!((account.timezone_id.as_deref(), account.primary_funding_id), (Some("101"), None));
    assert_eq!(meta.messaging_limit("512").await.unwrap().as_deref(), Some("TIER_10K"));
}

#[tokio::test]
async fn a_template_is_adopted_by_name_and_language_and_read_leniently() {
    let server = Server::start(|asked| match asked.method.as_str() {
        "POST" => answer(200, &json!({"id": "9", "status": "PENDING", "category": "UTILITY"})),
        _ => answer(200, &json!({"data": [
            {"id": 1, "name": "entretien", "language": "fr", "status": "APPROVED"},
            {"id": 2, "name": "entretien_2", "language": "en_US", "status": "APPROVED"},
            {"id": 3, "name": "entretien", "language": "en_US", "status": "REJECTED", "category": "utility", "rejected_reason": "INVALID_FORMAT", "quality_score": {"score": "RED", "date": 1}},
            {"id": 4, "name": "entretien", "language": "ar", "status": "DELETED"}]})),
    })
    .await;
    let meta = server::meta(&server.url);
    let found = meta.find_template("entretien", "en-US").await.unwrap().expect("there");
    assert_eq!(
        (found.id.as_str(), &found.status, &found.category, &found.quality),
        ("3", &TemplateStatus::Rejected, &TemplateCategory::Utility, &QualityScore::Red)
    );
    assert_eq!(found.rejected_reason.as_deref(), Some("INVALID_FORMAT"));
    assert_eq!(serde_json::from_value::<meta::Template>(json!(found)).unwrap(), found, "what is recorded is read back");
    let new = |language: &str| NewTemplate {
        name: "entretien".to_owned(),
        language: language.to_owned(),
        category: TemplateCategory::Utility,
        parameter_format: "NAMED".to_owned(),
        components: json!([{"type": "BODY", "text": "Bonjour"}]),
        allow_category_change: false,
        message_send_ttl_seconds: None,
    };
    assert_eq!(meta.submit_or_adopt(&new("fr")).await.unwrap().id, "1");
    assert_eq!(meta.submit_or_adopt(&new("ar")).await.unwrap().id, "9", "a deleted one is not adopted");
    let posted = server.asked().into_iter().find(|asked| asked.method == "POST").expect("submitted");
    assert_eq!(posted.json()["category"], "UTILITY");
}

#[tokio::test]
async fn a_template_is_edited_and_deleted_in_one_language() {
    let server = Server::start(|asked| match asked.raw_query.contains("hsm_id=8") {
        true => answer(400, &refused(100, Some(33), "gone")),
        false => answer(200, &json!({"success": true})),
    })
    .await;
    let meta = server::meta(&server.url);
    meta.edit_template("7", &json!([{"type": "BODY", "text": "Bonsoir"}])).await.unwrap();
    meta.delete_template("7", "entretien").await.unwrap();
    meta.delete_template("8", "entretien").await.unwrap();
    let asked = server.asked();
    assert_eq!(asked[0].line(), "POST /v25.0/7");
    assert_eq!(asked[1].line(), "DELETE /v25.0/401/message_templates");
    assert_eq!(asked[1].query(), ["hsm_id=7", "name=entretien"]);
}

#[tokio::test]
async fn a_message_carries_its_attempt_and_answers_its_wamid() {
    let server = Server::always(
        200,
        json!({"messaging_product": "whatsapp", "contacts": [{"input": "+212600000101", "wa_id": "212600000101"}],
            "messages": [{"id": "wamid.HBgM", "message_status": "held_for_quality_assessment"}]}),
    )
    .await;
    let parameters = body::parameters("body", [(Some("candidate_name"), "Salma"), (Some("slot"), "10h")]);
    let content = body::template("entretien", "fr", &[parameters, body::button("quick_reply", 0, "cand|ok")]);
    let message = body::quoting(body::message(Recipient::Phone("+212600000101"), "template", content, "at-1"), "wamid.IN");
    let sent = server::meta(&server.url).send("512", &message).await.unwrap();
    assert_eq!(
        (sent.wamid.as_str(), sent.acceptance, sent.wa_id.as_deref()),
        ("wamid.HBgM", Acceptance::Held, Some("212600000101"))
    );
    let asked = server.only();
    assert_eq!(asked.line(), "POST /v25.0/512/messages");
    let body = asked.json();
    assert_eq!(
        (&body["to"], &body["biz_opaque_callback_data"], &body["context"]["message_id"]),
        (&json!("+212600000101"), &json!("at-1"), &json!("wamid.IN"))
    );
    assert_eq!(
        body["template"]["components"][0]["parameters"][1],
        json!({"type": "text", "parameter_name": "slot", "text": "10h"})
    );
    assert_eq!(body["template"]["components"][1]["index"], "0");
}

#[tokio::test]
async fn a_bsuid_goes_into_recipient() {
    let server =
        Server::always(200, json!({"contacts": [{"input": "MA.48", "user_id": "MA.48"}], "messages": [{"id": "wamid.1"}]})).await;
    let message = body::message(Recipient::User("MA.48"), "text", body::text("Salam", false), "at-1");
    let sent = server::meta(&server.url).send("512", &message).await.unwrap();
    assert_eq!((sent.acceptance, sent.wa_id, sent.user_id.as_deref()), (Acceptance::Other(String::new()), None, Some("MA.48")));
    let body = server.only().json();
    assert_eq!((body.get("to"), &body["recipient"]), (None, &json!("MA.48")));
}

#[tokio::test]
async fn reading_is_marked_people_are_blocked() {
    let server = Server::always(200, json!({"success": true})).await;
    let meta = server::meta(&server.url);
    meta.mark_read("512", "wamid.IN", true).await.unwrap();
    meta.block("512", &[Recipient::Phone("+2126"), Recipient::User("MA.4")], false).await.unwrap();
    let asked = server.asked();
    assert_eq!(
        asked[0].json(),
        json!({"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.IN", "typing_indicator": {"type": "text"}})
    );
    assert_eq!(asked[1].line(), "DELETE /v25.0/512/block_users");
    assert_eq!(asked[1].json()["block_users"], json!([{"user": "+2126"}, {"user_id": "MA.4"}]));
}

#[tokio::test]
async fn media_go_up_and_come_down_with_the_token() {
    let server = Server::start(|asked| match (asked.method.as_str(), asked.path.as_str()) {
        ("POST", "/v25.0/512/media") => answer(200, &json!({"id": "1037"})),
        ("GET", "/v25.0/1037") => answer(200, &json!({"url": "https://lookaside.example/x", "mime_type": "image/png", "sha256": "ab", "file_size": "3", "id": "1037"})),
        ("GET", "/file") => bytes(200, "png"),
        ("DELETE", _) => answer(404, &refused(100, Some(33), "gone")),
        other => panic!("{other:?}"),
    })
    .await;
    let meta = server::meta(&server.url);
    assert_eq!(meta.upload_media("512", "cv.png", "image/png", Bytes::from_static(b"png")).await.unwrap().id, "1037");
    let link = meta.media("1037", "512").await.unwrap();
    assert_eq!(link.file_size, Some(3));
    assert!(!format!("{link:?}").contains("lookaside"));
    assert_eq!(&meta.download_media(&format!("{}/file", server.url)).await.unwrap()[..], b"png");
    meta.delete_media("1037").await.unwrap();
    let asked = server.asked();
    let form = String::from_utf8_lossy(&asked[0].body).into_owned();
    assert!(form.contains("name=\"messaging_product\"") && form.contains("cv.png") && form.contains("image/png"));
    assert_eq!(asked[2].header("authorization"), "Bearer TOKEN-meta");
}

#[tokio::test]
async fn analytics_are_asked_by_day_and_costs_made_whole() {
    let server = Server::always(
        200,
        json!({"id": "401", "pricing_analytics": {"data": [{"data_points": [
            {"start": 1795046400, "end": 1795132800, "phone_number": "212520000042", "country": "MA", "pricing_type": "REGULAR", "pricing_category": "SERVICE", "volume": 412, "cost": 9.476},
            {"start": 1795046400, "end": 1795132800, "volume": 3}]}]}}),
    )
    .await;
    let time = |seconds| DateTime::from_timestamp(seconds, 0).expect("a time");
    let query = AnalyticsQuery { start: time(1795046400), end: time(1795132800), phone_numbers: vec!["212520000042".to_owned()] };
    let points = server::meta(&server.url).pricing_analytics(&query).await.unwrap();
    assert_eq!((points[0].volume, points[0].cost_micros, points[1].cost_micros), (412, Some(9_476_000), None));
    assert_eq!(
        serde_json::from_value::<Vec<meta::PricingPoint>>(json!(points)).unwrap(),
        points,
        "what is recorded is read back"
    );
    let asked = server.only().query().remove(0);
    assert!(
        asked.starts_with(
            "fields=pricing_analytics.start(1795046400).end(1795132800).granularity(DAILY).phone_numbers([\"212520000042\"])"
        ),
        "{asked}"
    );
}

#[test]
fn number_states_are_words_with_a_case_forgiven() {
    assert_eq!(NumberStatus::from("connected"), NumberStatus::Connected);
    assert_eq!(CodeStatus::from("EXPIRED"), CodeStatus::Expired);
    assert_eq!(serde_json::from_value::<CodeStatus>(Value::Null).unwrap(), CodeStatus::Other(String::new()));
}
