//! What is sent to Telnyx, and what is made of its answers.

use crate::server::{self, Server, answer, bytes};
use domain::Kind;
use providers::{
    Price, TelnyxNews,
    telnyx::{
        Answering, CallLogQuery, DeliveryQuery, Ears, FieldType, GroupStatus, NewOrder, NumberPatch, NumberStatus, NumberType,
        OrderStatus, RecordingQuery, Release, RequirementStatus, Search, SpeechModel,
    },
    telnyx_hook,
};
use serde_json::{Value, json};
use uuid::Uuid;

fn list(rows: Value) -> Value {
    json!({"data": rows, "meta": {"page_number": 1, "page_size": 250, "total_pages": 1, "total_results": 1}})
}

#[tokio::test]
async fn a_search_filters_in_brackets_and_leaves_masked_numbers_out() {
    let server = Server::always(
        200,
        json!({"data": [
            {"phone_number": "+212520000042", "features": [{"name": "voice"}, {"name": "sms"}], "reservable": true,
             "cost_information": {"upfront_cost": "1.00", "monthly_cost": "4.50", "currency": "USD"},
             "region_information": [{"region_type": "country_code", "region_name": "MA"}, {"region_type": "location", "region_name": "CASABLANCA"}]},
            {"phone_number": "+21252000xxxx", "features": []},
            {"phone_number": "+212520000043", "features": null, "cost_information": null, "region_information": null},
        ], "meta": {"total_results": 3}, "metadata": {"total_results": 3}}),
    )
    .await;
    let wanted = Search {
        country: "MA".to_owned(),
        number_type: Some(NumberType::Local),
        features: vec!["sms".to_owned(), "voice".to_owned()],
        limit: Some(5),
        exclude_held: true,
        ..Search::default()
    };
    let found = server::telnyx(&server.url).search(&wanted).await.unwrap();

    assert_eq!(found.len(), 2);
    assert_eq!(found[0].monthly, Some(Price { micros: 4_500_000, currency: "USD".to_owned() }));
    assert_eq!(found[0].features, ["voice", "sms"]);
    assert_eq!(found[0].location.as_deref(), Some("CASABLANCA"));
    assert_eq!((&found[1].upfront, &found[1].monthly), (&None, &None));
    let asked = server.only();
    assert_eq!(asked.line(), "GET /v2/available_phone_numbers");
    assert_eq!(asked.header("authorization"), "Bearer KEY-telnyx");
    assert_eq!(
        asked.query(),
        [
            "filter[country_code]=MA",
            "filter[phone_number_type]=local",
            "filter[limit]=5",
            "filter[features][]=sms",
            "filter[features][]=voice",
            "filter[exclude_held_numbers]=true"
        ]
    );
}

#[tokio::test]
async fn an_order_is_for_one_number_under_our_reference() {
    let server = Server::always(
        200,
        json!({"data": {"id": "12ade33a-21c0-473b-b055-b3c836e1c292", "status": "pending", "requirements_met": false, "connection_id": null,
            "customer_reference": "ref-1", "bundle_id": null, "sub_number_orders_ids": ["f8299dc7"], "created_at": "2026-11-20T10:01:00.000000Z",
            "phone_numbers": [{"id": "line", "phone_number": "+212520000042", "phone_number_type": "longcode", "country_code": "MA",
                "country_iso_alpha2": "MA", "status": "pending", "requirements_met": false, "requirements_status": "requirement-info-pending",
                "regulatory_requirements": [{"requirement_id": "r1", "field_type": "document", "field_value": "", "status": null}]}]}}),
    )
    .await;
    let order = NewOrder {
        phone_number: "+212520000042".to_owned(),
        customer_reference: "ref-1".to_owned(),
        requirement_group_id: Some("group".to_owned()),
        billing_group_id: None,
    };
    let order = server::telnyx(&server.url).create_order(&order).await.unwrap();

    assert_eq!(order.status, OrderStatus::Pending);
    let line = order.line("+212520000042").expect("our line");
    assert_eq!(line.phone_number_type, NumberType::Other("longcode".to_owned()));
    assert_eq!(line.requirements_status, RequirementStatus::InfoPending);
    assert_eq!(line.regulatory_requirements[0].field_value, None);
    assert_eq!(
        serde_json::from_value::<providers::telnyx::NumberOrder>(json!(order)).unwrap(),
        order,
        "what is recorded is read back"
    );
    let asked = server.only();
    assert_eq!(asked.line(), "POST /v2/number_orders");
    assert_eq!(
        asked.json(),
        json!({"phone_numbers": [{"phone_number": "+212520000042", "requirement_group_id": "group"}],
            "connection_id": "2301234567890123456", "messaging_profile_id": "profile-1", "customer_reference": "ref-1"})
    );
}

#[tokio::test]
async fn orders_are_looked_up_by_reference_exactly_and_through_all_pages() {
    let server = Server::start(|asked| {
        let order = |id: &str, reference: &str| json!({"id": id, "status": "success", "customer_reference": reference, "phone_numbers": [{"id": "l", "phone_number": "+2125"}]});
        let page = asked.query().iter().find_map(|pair| pair.strip_prefix("page[number]=").map(str::to_owned));
        let rows = match page.as_deref() {
            Some("1") => json!([order("a", "ref-10"), order("b", "ref-1")]),
            Some("2") => json!([order("c", "ref-1")]),
            other => panic!("page {other:?}"),
        };
        answer(200, &json!({"data": rows, "meta": {"total_pages": 2, "total_results": 3}}))
    })
    .await;
    let orders = server::telnyx(&server.url).orders_by_reference("ref-1").await.unwrap();
    assert_eq!(orders.iter().map(|order| order.id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(server.asked().len(), 2);
    assert_eq!(server.asked()[0].query(), ["filter[customer_reference]=ref-1", "page[number]=1", "page[size]=250"]);
}

#[tokio::test]
async fn a_number_is_found_by_digits_and_compared_exactly() {
    let number = |id: Value, phone: &str, status: &str| json!({"id": id, "phone_number": phone, "status": status, "tags": null, "connection_id": 2301234567890123456_i64});
    let server = Server::always(
        200,
        list(json!([
            number(json!("1"), "+2125200000421", "active"),
            number(json!("2"), "+212520000042", "deleted"),
            number(json!("2893450128734501287"), "+212520000042", "provision-pending"),
        ])),
    )
    .await;
    let found = server::telnyx(&server.url).find_number("+212 520-000042").await.unwrap().expect("ours");
    assert_eq!(found.id, "2893450128734501287");
    assert_eq!(found.status, NumberStatus::ProvisionPending);
    assert_eq!(found.connection_id.as_deref(), Some("2301234567890123456"));
    assert_eq!(server.only().query()[0], "filter[phone_number]=212520000042");
}

#[tokio::test]
async fn ids_may_come_as_numbers_and_words_may_be_new() {
    let server = Server::always(
        200,
        json!({"data": {"id": 2893450128734501287_i64, "phone_number": "+212520000042", "status": "half-asleep", "tags": ["a"]}}),
    )
    .await;
    let number = server::telnyx(&server.url).number("2893450128734501287").await.unwrap();
    assert_eq!(number.id, "2893450128734501287");
    assert_eq!(number.status, NumberStatus::Other("half-asleep".to_owned()));
    assert!(number.status.is_held());
}

#[tokio::test]
async fn a_number_is_configured_and_given_back_once() {
    let server = Server::start(|asked| match asked.line().as_str() {
        "PATCH /v2/phone_numbers/77/messaging" => answer(
            200,
            &json!({"data": {"id": "77", "messaging_profile_id": "profile-1",
            "features": {"sms": {"domestic_two_way": true, "international_inbound": false}, "mms": null}}}),
        ),
        "DELETE /v2/phone_numbers/78" => answer(404, &json!({"errors": [{"code": "10005", "title": "Not found"}]})),
        _ => answer(200, &json!({"data": {"id": "77", "phone_number": "+212520000042", "status": "active"}})),
    })
    .await;
    let telnyx = server::telnyx(&server.url);
    let patch =
        NumberPatch { connection_id: Some("9".to_owned()), tags: Some(vec!["ref-1".to_owned()]), ..NumberPatch::default() };
    telnyx.patch_number("77", &patch).await.unwrap();
    let messaging = telnyx.patch_messaging("77").await.unwrap();
    assert!(messaging.sms().is_some_and(|sms| sms.domestic_two_way && !sms.international_inbound));
    telnyx.patch_voice("77").await.unwrap();
    assert_eq!(telnyx.delete_number("77").await.unwrap(), Release::Released);
    assert_eq!(telnyx.delete_number("78").await.unwrap(), Release::NotFound);
    let asked = server.asked();
    assert_eq!(asked[0].json(), json!({"connection_id": "9", "tags": ["ref-1"]}));
    assert_eq!(asked[1].json(), json!({"messaging_profile_id": "profile-1"}));
    assert_eq!(asked[2].json()["inbound_call_screening"], "disabled");
    assert_eq!(asked[2].json()["call_forwarding"]["call_forwarding_enabled"], false);
}

#[tokio::test]
async fn an_empty_id_never_reaches_the_list_it_would_hit() {
    let server = Server::always(200, json!({"data": []})).await;
    let telnyx = server::telnyx(&server.url);
    for id in ["", ".", ".."] {
        assert_eq!(telnyx.delete_number(id).await.unwrap_err().kind, Kind::Rejected);
    }
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn coverage_names_only_the_types_that_are_sold() {
    let server = Server::start(|asked| {
        if asked.path.ends_with("/XX") {
            return answer(404, &json!({"errors": [{"code": "10005", "title": "Not found"}]}));
        }
        answer(200, &json!({"data": {"code": "MA", "numbers": true, "features": ["voice"], "phone_number_type": ["local"],
            "local": {"features": ["voice"], "reservable": true, "international_sms": false}, "national": {}, "mobile": {}, "toll_free": null}}))
    })
    .await;
    let telnyx = server::telnyx(&server.url);
    let morocco = telnyx.coverage("MA").await.unwrap();
    assert!(
        morocco.numbers
            && morocco.types.len() == 1
            && morocco.types[0].number_type == NumberType::Local
            && morocco.types[0].reservable
    );
    let nowhere = telnyx.coverage("XX").await.unwrap();
    assert!(!nowhere.numbers && nowhere.types.is_empty());
}

#[tokio::test]
async fn papers_are_usable_when_filled_in_and_alive() {
    let group = |id: &str, country: &str, status: &str, value: Value| {
        json!({"id": id, "country_code": country, "phone_number_type": "local", "action": "ordering", "status": status, "customer_reference": null,
            "regulatory_requirements": [{"requirement_id": "r", "field_type": "document", "field_value": value}]})
    };
    let server = Server::start(move |asked| {
        if asked.path.ends_with("/requirements") {
            let types = json!([{"id": "r", "name": "Proof", "type": "document", "description": "A paper"}]);
            return answer(200, &list(json!([{"phone_number_type": "local", "requirements_types": types}, {"phone_number_type": "mobile", "requirements_types": types}])));
        }
        answer(200, &json!([
            group("a", "MA", "approved", json!("doc")),
            group("b", "MA", "unapproved", json!("")),
            group("c", "MA", "expired", json!("doc")),
            group("d", "FR", "approved", json!("doc")),
        ]))
    })
    .await;
    let telnyx = server::telnyx(&server.url);
    let groups = telnyx.requirement_groups("MA", &NumberType::Local).await.unwrap();
    assert_eq!(groups.len(), 3);
    assert_eq!(groups[0].status, GroupStatus::Approved);
    assert_eq!(groups.iter().filter(|group| group.is_usable()).map(|group| group.id.as_str()).collect::<Vec<_>>(), ["a"]);
    let wanted = telnyx.requirements("MA", &NumberType::Local).await.unwrap();
    assert_eq!(wanted.len(), 1);
    assert_eq!(wanted[0].field_type, FieldType::Document);
}

#[tokio::test]
async fn a_call_is_answered_silently_recorded_and_heard() {
    let server = Server::always(200, json!({"data": {"result": "ok", "recording_id": "x"}})).await;
    let command = Uuid::from_u128(7);
    let how = Answering { client_state: "run-1".to_owned(), ears: Some(Ears::google("fr")), record: true };
    server::telnyx(&server.url).answer("v3:abc/d e", command, &how).await.unwrap();
    let asked = server.only();
    assert_eq!(asked.path, "/v2/calls/v3:abc%2Fd%20e/actions/answer");
    let body = asked.json();
    assert_eq!(body["command_id"], json!(command));
    assert_eq!(body["client_state"], "cnVuLTE=");
    assert_eq!(body["record"], "record-from-answer");
    assert_eq!(body["transcription_config"]["transcription_engine"], "Google");
    assert_eq!(body["transcription_config"]["transcription_engine_config"]["language"], "fr");
}

#[tokio::test]
async fn commands_to_a_call_that_is_over_or_heard_already_are_done() {
    let refuse = |code: &'static str| Server::start(move |_| answer(422, &json!({"errors": [{"code": code, "title": "No"}]})));
    let command = Uuid::from_u128(7);
    let over = refuse("90018").await;
    let telnyx = server::telnyx(&over.url);
    telnyx.hangup("v3:a", command).await.unwrap();
    telnyx.reject("v3:a", command).await.unwrap();
    assert_eq!(over.asked()[1].json(), json!({"cause": "CALL_REJECTED", "command_id": command}));
    server::telnyx(&refuse("90054").await.url).transcription_start("v3:a", command, &Ears::google("ar")).await.unwrap();
    let early =
        server::telnyx(&refuse("90034").await.url).transcription_start("v3:a", command, &Ears::google("ar")).await.unwrap_err();
    assert_eq!(early.kind, Kind::Transient);
}

#[tokio::test]
async fn a_recording_is_found_fetched_without_our_key_heard_again_and_deleted() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/v2/recordings" => answer(
            200,
            &list(json!([{"id": "rec", "call_leg_id": "leg", "status": "completed", "duration_millis": 36000,
            "download_urls": {"wav": null, "mp3": "https://storage.example.net/a.mp3"}}])),
        ),
        "/files/a.wav" => bytes(200, "RIFF\0\u{1}sound"),
        "/v2/ai/audio/transcriptions" => answer(200, &json!({"text": "quatre sept un"})),
        "/v2/recordings/gone" => answer(404, &json!({"errors": [{"code": "10005"}]})),
        _ => answer(200, &json!({"data": {}})),
    })
    .await;
    let telnyx = server::telnyx(&server.url);
    let query = RecordingQuery { call_leg_id: Some("leg".to_owned()), ..RecordingQuery::default() };
    let found = telnyx.recordings(&query).await.unwrap();
    assert_eq!(found[0].download_urls.best(), Some("https://storage.example.net/a.mp3"));
    assert!(!format!("{found:?}").contains("storage.example"), "a link is a secret");
    let sound = telnyx.download_recording(&format!("{}/files/a.wav?expires=600", server.url)).await.unwrap();
    assert_eq!(telnyx.transcribe(sound, SpeechModel::Whisper, Some("fr")).await.unwrap(), "quatre sept un");
    telnyx.delete_recording("gone").await.unwrap();
    let asked = server.asked();
    assert_eq!(asked[1].header("authorization"), "");
    assert!(asked[2].header("content-type").starts_with("multipart/form-data"));
    let form = String::from_utf8_lossy(&asked[2].body).into_owned();
    assert!(form.contains("openai/whisper-large-v3-turbo") && form.contains("call.wav") && form.contains("audio/wav"));
}

#[tokio::test]
async fn an_address_in_an_answer_leads_nowhere_unsafe() {
    let telnyx = server::telnyx("http://127.0.0.1:1");
    for url in ["http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "http://127.0.0.1:2/x", "nonsense"] {
        assert_eq!(telnyx.download_recording(url).await.unwrap_err().kind, Kind::Rejected, "{url}");
    }
}

#[tokio::test]
async fn a_missed_webhook_is_recovered_from_the_log() {
    let event = json!({"record_type": "event", "event_type": "message.received", "id": "e1", "occurred_at": "2026-11-20T10:06:07.588Z",
        "payload": {"id": "m1", "from": {"phone_number": "Meta"}, "to": [{"phone_number": "+212520000042"}], "text": "code"}});
    let logged = json!({"call_leg_id": "leg", "call_session_id": "s", "name": "call.hangup", "type": "webhook", "event_timestamp": "2026-11-20T10:06:07.588Z",
        "metadata": {"event": {"id": "e2", "event_type": "call.hangup", "payload": {"call_leg_id": "leg", "hangup_cause": "normal_clearing"}}}});
    let nameless = json!({"call_leg_id": "leg", "call_session_id": "s", "name": "call.transcription", "type": "webhook", "event_timestamp": "2026-11-20T10:06:08Z",
        "metadata": {"event": {"call_leg_id": "leg", "transcription_data": {"transcript": "un deux"}}}});
    let server = Server::start(move |asked| {
        let rows = if asked.path.ends_with("call_events") {
            json!([logged, nameless])
        } else {
            json!([{"id": "d", "status": "failed", "webhook": event}])
        };
        answer(200, &list(rows))
    })
    .await;
    let telnyx = server::telnyx(&server.url);
    let query = DeliveryQuery { failed: true, contains: Some("+212520000042".to_owned()), ..DeliveryQuery::default() };
    let deliveries = telnyx.webhook_deliveries(&query).await.unwrap();
    assert_eq!(telnyx_hook::parse_value(deliveries[0].webhook.clone()).unwrap().id, "e1");
    assert_eq!(server.asked()[0].query()[..2], ["filter[status][eq]=failed", "filter[webhook][contains]=+212520000042"]);
    let entries = telnyx.call_events(&CallLogQuery::default()).await.unwrap();
    let event = entries[0].event();
    assert_eq!((event.id.as_str(), event.event_type.as_str()), ("e2", "call.hangup"));
    let event = entries[1].event();
    assert_eq!(event.id, "log:leg:call.transcription:2026-11-20T10:06:08.000Z");
    assert!(
        matches!(event.news(), TelnyxNews::Transcription(heard) if heard.transcript == "un deux" && heard.call.call_leg_id == "leg")
    );
}

#[tokio::test]
async fn money_is_exact_or_an_error() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/v2/balance" => answer(200, &json!({"data": {"balance": "-0.01", "credit_limit": "100.00", "available_credit": "99.99", "currency": "USD"}})),
        _ if asked.raw_query.contains("2026-12-01") => answer(200, &json!({"data": {"currency": "USD", "results": [
            {"tn": "+212520000042", "charge_type": "local", "services": [{"name": "Local DIDs", "cost": "4.50", "cost_type": "MRC"},
                {"name": "Local DIDs", "cost": "1.000001", "cost_type": "OTC"}]}]}})),
        _ => answer(200, &json!({"data": {"currency": "USD", "results": [{"tn": "+1", "services": [{"name": "?", "cost": "free"}]}]}})),
    })
    .await;
    let telnyx = server::telnyx(&server.url);
    let balance = telnyx.balance().await.unwrap();
    assert_eq!((balance.balance.micros, balance.available_credit.micros), (-10_000, 99_990_000));
    let day = |text: &str| text.parse().expect("a date");
    let charges = telnyx.charges(day("2026-11-01"), day("2026-12-01")).await.unwrap();
    let services = &charges.numbers[0].services;
    assert!(
        services[0].recurring
            && services[0].cost.micros == 4_500_000
            && !services[1].recurring
            && services[1].cost.micros == 1_000_001
    );
    assert_eq!(telnyx.charges(day("2026-10-01"), day("2026-11-01")).await.unwrap_err().kind, Kind::Rejected);
}

#[test]
fn prices_are_read_digit_by_digit() {
    let read = |text: &str| Price::parse(text, "USD").map(|price| price.micros);
    assert_eq!(read("4.5"), Some(4_500_000));
    assert_eq!(read("0.0000"), Some(0));
    assert_eq!(read(".5"), Some(500_000));
    assert_eq!(read("12"), Some(12_000_000));
    assert_eq!(read("0.0000010000"), Some(1));
    for bad in ["", ".", "-", "1,5", "1e3", "0.0000001", "NaN", "99999999999999999999", "--1", "1.2.3"] {
        assert_eq!(read(bad), None, "{bad}");
    }
}
