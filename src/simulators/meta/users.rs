//! People on WhatsApp: phone, business-scoped id, windows, what they write and want (contracts/meta-cloud-api.md 10 and 11).

use chrono::{DateTime, Utc};
use rand::Rng;
use serde_json::{Value, json};
use std::collections::HashMap;

use super::messages::{WINDOW, frame, wamid};
use crate::world::World;

/// Whom a message goes to: a known person, or an id that nobody has.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    /// The phone's digits, if the message was sent to them.
    pub(super) phone: Option<String>,
    /// The business-scoped id.
    pub(super) user: String,
    pub(super) country: String,
}

/// One person.
#[derive(Debug, Clone)]
pub(crate) struct User {
    phone: String,
    name: String,
    /// With a username the phone may be hidden.
    username: Option<String>,
    hidden: bool,
    stopped: bool,
}

/// Everybody, by business-scoped id.
#[derive(Default)]
pub(crate) struct Users {
    all: HashMap<String, User>,
    by_phone: HashMap<String, String>,
    /// When a user last wrote to a number.
    wrote: HashMap<(String, String), DateTime<Utc>>,
    serial: u64,
}

const CODES: [(&str, &str); 9] = [
    ("212", "MA"),
    ("221", "SN"),
    ("213", "DZ"),
    ("216", "TN"),
    ("33", "FR"),
    ("34", "ES"),
    ("44", "GB"),
    ("49", "DE"),
    ("1", "US"),
];

fn country_of(phone: &str) -> &'static str {
    CODES.iter().find(|(code, _)| phone.starts_with(code)).map_or("ZZ", |(_, country)| country)
}

/// `CC.` and up to 128 letters or digits, `CC.ENT.` for a parent.
pub(super) fn is_bsuid(id: &str) -> bool {
    let Some((country, rest)) = id.split_once('.') else { return false };
    let rest = rest.strip_prefix("ENT.").unwrap_or(rest);
    country.len() == 2
        && country.bytes().all(|b| b.is_ascii_uppercase())
        && (1..=128).contains(&rest.len())
        && rest.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// The person with this phone; everybody is on WhatsApp.
pub(super) fn by_phone(world: &mut World, phone: &str) -> Address {
    let user = id_of(world, phone);
    Address { phone: Some(phone.to_owned()), user, country: country_of(phone).to_owned() }
}

pub(super) fn by_bsuid(id: &str) -> Address {
    Address { phone: None, user: id.to_owned(), country: id[..2].to_owned() }
}

fn id_of(world: &mut World, phone: &str) -> String {
    if let Some(id) = world.meta.users.by_phone.get(phone) {
        return id.clone();
    }
    let id = fresh_id(world, phone);
    let name = format!("Candidat {}", phone.get(phone.len().saturating_sub(4)..).unwrap_or(phone));
    let user = User { phone: phone.to_owned(), name, username: None, hidden: false, stopped: false };
    world.meta.users.all.insert(id.clone(), user);
    world.meta.users.by_phone.insert(phone.to_owned(), id.clone());
    id
}

fn fresh_id(world: &mut World, phone: &str) -> String {
    world.meta.users.serial += 1;
    let serial = world.meta.users.serial;
    format!("{}.{}", country_of(phone), 48_201_937_000_000_000 + serial * 7_919)
}

pub(super) fn exists(world: &World, to: &Address) -> bool {
    to.phone.is_some() || world.meta.users.all.contains_key(&to.user)
}

pub(super) fn stopped(world: &World, user: &str) -> bool {
    world.meta.users.all.get(user).is_some_and(|user| user.stopped)
}

pub(super) fn window_open(world: &World, number: &str, user: &str) -> bool {
    let wrote = world.meta.users.wrote.get(&(number.to_owned(), user.to_owned()));
    wrote.is_some_and(|at| world.now - *at < WINDOW)
}

/// The contact of a status webhook.
pub(super) fn contact(world: &World, to: &Address) -> Value {
    let user = world.meta.users.all.get(&to.user);
    let name = user.map_or("", |user| &user.name);
    let phone = to.phone.as_ref().or_else(|| user.filter(|user| !user.hidden).map(|user| &user.phone));
    let mut contact = json!({"profile": {"name": name}, "user_id": to.user});
    if let Some(phone) = phone {
        contact["wa_id"] = json!(phone);
    }
    contact
}

/// A person writes to one of our numbers; `content` is the message without its frame, e.g. `{"type":"text","text":{"body":"oui"}}`.
/// The message's id, or none if the number is not ours.
pub(crate) fn write(world: &mut World, number: &str, phone: &str, content: Value) -> Option<String> {
    let (number, phone) = (number.trim_start_matches('+'), phone.trim_start_matches('+'));
    let line = world.meta.by_digits(number).or_else(|| world.meta.numbers.get(number))?;
    let digits = line.digits.clone();
    let user = id_of(world, phone);
    let wamid = wamid(world, phone);
    world.meta.users.wrote.insert((digits.clone(), user.clone()), world.now);
    world.meta.traffic.inbound.insert(wamid.clone());
    let known = &world.meta.users.all[&user];
    let mut message = content;
    message["id"] = json!(wamid);
    message["timestamp"] = json!(world.now.timestamp().to_string());
    message["from_user_id"] = json!(user);
    let mut contact = json!({"profile": {"name": known.name}, "user_id": user});
    if let Some(username) = &known.username {
        contact["profile"]["username"] = json!(username);
    }
    if !known.hidden {
        message["from"] = json!(known.phone);
        contact["wa_id"] = json!(known.phone);
    }
    let mut value = frame(world, &digits);
    value["contacts"] = json!([contact]);
    value["messages"] = json!([message]);
    world.meta_change(&digits, "messages", value);
    Some(wamid)
}

/// A person takes a username and hides the phone, or shows it again.
pub(crate) fn hide(world: &mut World, phone: &str, username: Option<String>) {
    let id = id_of(world, phone.trim_start_matches('+'));
    if let Some(user) = world.meta.users.all.get_mut(&id) {
        user.hidden = username.is_some();
        user.username = username;
    }
}

/// `stop` or `resume` of marketing, told to one number's service.
pub(crate) fn prefer(world: &mut World, number: &str, phone: &str, wish: &str) {
    let phone = phone.trim_start_matches('+');
    let id = id_of(world, phone);
    if let Some(user) = world.meta.users.all.get_mut(&id) {
        user.stopped = wish == "stop";
    }
    let digits = number.trim_start_matches('+');
    let mut value = frame(world, digits);
    value["contacts"] = json!([{"profile": {"name": ""}, "wa_id": phone, "user_id": id}]);
    value["user_preferences"] = json!([{"wa_id": phone, "user_id": id, "detail": "User requested to change marketing messages",
        "category": "marketing_messages", "value": wish, "timestamp": world.now.timestamp()}]);
    world.meta_change(digits, "user_preferences", value);
}

/// A person gets a new phone number, and with it a new business-scoped id: two signals, in either order.
pub(crate) fn renumber(world: &mut World, number: &str, old: &str, new: &str) {
    let (old, new) = (old.trim_start_matches('+'), new.trim_start_matches('+'));
    let digits = number.trim_start_matches('+').to_owned();
    let previous = id_of(world, old);
    let current = fresh_id(world, new);
    world.meta.users.by_phone.remove(old);
    if let Some(mut user) = world.meta.users.all.remove(&previous) {
        user.phone = new.to_owned();
        world.meta.users.all.insert(current.clone(), user);
    }
    world.meta.users.by_phone.insert(new.to_owned(), current.clone());
    let stamp = world.now.timestamp();
    let mut update = frame(world, &digits);
    update["user_id_update"] = json!([{"wa_id": new, "user_id": {"previous": previous, "current": current},
        "detail": "User changed their phone number", "timestamp": stamp}]);
    let mut system = frame(world, &digits);
    let wamid = wamid(world, new);
    system["contacts"] = json!([{"profile": {"name": ""}, "wa_id": new, "user_id": current}]);
    system["messages"] = json!([{"id": wamid, "timestamp": stamp.to_string(), "type": "system", "from": old, "from_user_id": previous,
        "system": {"body": "User changed phone number", "type": "user_changed_user_id", "wa_id": new, "user_id": current}}]);
    let mut signals = [("user_id_update", update), ("messages", system)];
    if world.dice.random() {
        signals.reverse();
    }
    for (field, value) in signals {
        world.meta_change(&digits, field, value);
    }
}
