//! The main road: a number bought, proved by a call or a text, registered, and given back.

use crate::service::Service;
use serde_json::{Value, json};
use simulators::{Scene, Style};
use std::time::Duration;

#[tokio::test]
async fn a_number_goes_from_search_to_connected_by_voice() {
    let service = Service::open().await;
    let phone = service.find("MA").await;
    let (status, order) = service.order(&phone, "job-1").await;
    assert_eq!((status, &order["data"]["status"]), (200, &json!("pending")));
    let order_id = order["data"]["id"].as_str().unwrap();

    let done = service.event("number_order.complete").await;
    assert_eq!(done.payload()["status"], "success");
    assert_eq!(done.payload()["id"], order_id);
    assert!(service.telnyx_signed(&done));
    service.sims.settle().await;

    let (_, numbers) = service.telnyx("GET", &format!("phone_numbers?filter[phone_number]={}", &phone[1..]), Value::Null).await;
    let number = &numbers["data"][0];
    assert_eq!((&number["status"], &number["customer_reference"]), (&json!("active"), &json!("job-1")));
    let number_id = number["id"].as_str().expect("ids are strings");
    assert_eq!(number_id.len(), 19);
    assert_ne!(order["data"]["phone_numbers"][0]["id"], number_id, "the order line has an id of its own");

    let id = service.add(&phone, "Atlas Recrutement").await;
    service.sims.scene_next(Scene::Speak { style: Style::Words });
    assert_eq!(service.ask_code(&id, "VOICE", "fr_FR").await.0, 200);
    let ringing = service.event("call.initiated").await;
    assert_eq!(ringing.payload()["to"], phone.as_str());
    let control = ringing.payload()["call_control_id"].as_str().unwrap();
    let (status, answered) = service.pick_up(control, "fr").await;
    assert_eq!((status, &answered["data"]["result"]), (200, &json!("ok")));
    assert!(answered["data"]["recording_id"].is_string());
    service.event("call.answered").await;
    service.event("call.recording.saved").await;
    service.sims.settle().await;
    let spoken: Vec<String> = service
        .hooks()
        .iter()
        .filter(|seen| seen.event() == "call.transcription")
        .map(|seen| seen.payload()["transcription_data"]["transcript"].as_str().unwrap().to_owned())
        .collect();
    assert!(spoken.len() >= 3, "{spoken:?}");
    service.event("call.hangup").await;
    service.event("call.cost").await;

    let code = service.sims.code_of(&id).unwrap();
    let (status, _) = service.meta("POST", &format!("{id}/verify_code?code={code}"), Value::Null).await;
    assert_eq!(status, 200);
    assert_eq!(service.register(&id).await.0, 200);
    service.sims.settle().await;
    let fields = "status,code_verification_status,name_status,platform_type,is_pin_enabled,health_status,throughput";
    let (_, seen) = service.meta("GET", &format!("{id}?fields={fields}"), Value::Null).await;
    assert_eq!(seen["status"], "CONNECTED");
    assert_eq!(seen["code_verification_status"], "VERIFIED");
    assert_eq!(seen["name_status"], "APPROVED");
    assert_eq!(seen["platform_type"], "CLOUD_API");
    assert_eq!(seen["is_pin_enabled"], true);
    assert_eq!(seen["health_status"]["can_send_message"], "AVAILABLE");

    let books = service.sims.books();
    assert_eq!(books.purchases("job-1"), 1);
    assert_eq!(books.numbers[&phone[1..]].register_calls.len(), 1);
    assert_eq!(books.spent, 10_000 + 45_000 + 35);
}

#[tokio::test]
async fn a_code_comes_by_text_with_a_hyphen() {
    let service = Service::open().await;
    let phone = service.buy("job-1").await;
    let id = service.add(&phone, "Atlas Recrutement").await;
    assert_eq!(service.ask_code(&id, "SMS", "ar").await.0, 200);
    let text = service.event("message.received").await;
    let code = service.sims.code_of(&phone).unwrap();
    let body = text.payload()["text"].as_str().unwrap();
    assert!(body.contains(&format!("{}-{}", &code[..3], &code[3..])), "{body}");
    assert!(service.telnyx_signed(&text));
    let (_, kept) = service.telnyx("GET", &format!("messages/{}", text.payload()["id"].as_str().unwrap()), Value::Null).await;
    assert_eq!(kept["data"]["text"], body);
}

#[tokio::test]
async fn profile_takes_a_logo_uploaded_in_two_pieces() {
    let service = Service::open().await;
    let (_, id) = service.live("job-1").await;
    let app = service.sims.config().meta.app_id.clone();
    let start = format!("{app}/uploads?file_name=logo.png&file_length=8&file_type=image/png");
    let (_, session) = service.meta("POST", &start, Value::Null).await;
    let session = session["id"].as_str().unwrap().to_owned();
    let url = format!("{}/v25.0/{session}", service.sims.meta_url());
    let token = service.sims.config().meta.system_token.clone();
    let put = async |offset: &str, bytes: &'static [u8]| {
        let request =
            reqwest::Client::new().post(&url).header("file_offset", offset).header("authorization", format!("OAuth {token}"));
        let answer = request.body(bytes).send().await.unwrap();
        serde_json::from_slice::<Value>(&answer.bytes().await.unwrap()).unwrap()
    };
    put("0", b"half").await;
    let (_, at) = service.meta("GET", &session, Value::Null).await;
    assert_eq!(at["file_offset"], 4);
    let handle = put("4", b"half").await["h"].as_str().unwrap().to_owned();
    let profile = json!({"messaging_product": "whatsapp", "about": "Recrutement", "vertical": "PROF_SERVICES", "profile_picture_handle": handle});
    assert_eq!(service.meta("POST", &format!("{id}/whatsapp_business_profile"), profile).await.0, 200);
    let (_, shown) = service.meta("GET", &format!("{id}/whatsapp_business_profile"), Value::Null).await;
    assert_eq!(shown["data"][0]["vertical"], "PROF_SERVICES");
    assert!(shown["data"][0]["profile_picture_url"].is_string());
}

#[tokio::test]
async fn a_released_number_is_gone_and_its_rent_ends() {
    let service = Service::open().await;
    let phone = service.buy("job-1").await;
    let id = service.sims.books().owned[0].id.clone();
    service.sims.advance(Duration::from_secs(32 * 86_400));
    assert_eq!(service.sims.books().spent, 10_000 + 2 * 45_000);
    let (status, gone) = service.telnyx("DELETE", &format!("phone_numbers/{id}"), Value::Null).await;
    assert_eq!((status, &gone["data"]["status"]), (200, &json!("deleted")));
    let (status, error) = service.telnyx("DELETE", &format!("phone_numbers/{id}"), Value::Null).await;
    assert_eq!((status, &error["errors"][0]["code"]), (404, &json!("10005")));
    service.sims.advance(Duration::from_secs(90 * 86_400));
    let books = service.sims.books();
    assert!(books.is_empty_handed());
    assert_eq!(books.spent, 10_000 + 2 * 45_000);
    let (_, active) = service.telnyx("GET", "phone_numbers?filter[status]=active", Value::Null).await;
    assert_eq!(active["data"], json!([]));
    service.sims.call(&phone, "hello");
    assert_eq!(service.sims.books().unheard, 1);
}

#[tokio::test]
async fn deregistered_before_release_leaves_no_trace() {
    let service = Service::open().await;
    let (phone, id) = service.live("job-1").await;
    assert_eq!(service.meta("POST", &format!("{id}/deregister"), json!({})).await.0, 200);
    let number = service.sims.books().owned[0].id.clone();
    service.telnyx("DELETE", &format!("phone_numbers/{number}"), Value::Null).await;
    assert!(service.sims.books().is_empty_handed());
    assert!(service.sims.books().released_registered.is_empty(), "{phone}");
}
