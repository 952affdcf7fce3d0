//! Telnyx and Meta in small, over real HTTP, with faults on command.
//!
//! Knows the contracts and the house's nouns, and none of the clients' code, so that it cannot share a mistake with them.
//! One world stands behind both listeners: a code that Meta speaks rings at the number that Telnyx sold. It has a clock of
//! its own ([`Simulators::advance`]), an agenda that follows it, and a journal of every call ([`Simulators::journal`]).

mod books;
mod clock;
mod config;
mod control;
mod faults;
mod hooks;
mod journal;
mod meta;
mod serve;
mod speech;
mod telnyx;
mod wire;
mod world;

use axum::Router;
use base64::{Engine, prelude::BASE64_STANDARD};
use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;

pub use books::{Books, CodeRequest, MessageBooks, MetaNumber, OwnedNumber, PlacedOrder};
pub use clock::Clock;
pub use config::{Bodies, Config, Delays, HookUrls, MetaAccount, TelnyxAccount};
pub use faults::{Fault, FaultPlan, HookFault, HookPlan, Hostility, Profile, Scene, ScenePlan};
pub use journal::Entry;
pub use speech::Style;
pub use telnyx::{Charge, ChargeKind};

use serve::{Desk, Provider};
use wire::{Cuttable, Scissors};
use world::{Stage, World};

/// Both providers, listening.
pub struct Simulators {
    stage: Arc<Stage>,
    telnyx: SocketAddr,
    meta: SocketAddr,
    config: Config,
}

impl Simulators {
    /// Binds both listeners and starts to serve.
    ///
    /// # Errors
    /// If an address is taken, or no HTTP client can be made.
    pub async fn start(mut config: Config) -> io::Result<Self> {
        let telnyx_listener = TcpListener::bind(config.telnyx_listen).await?;
        let meta_listener = TcpListener::bind(config.meta_listen).await?;
        let (telnyx, meta) = (telnyx_listener.local_addr()?, meta_listener.local_addr()?);
        config.telnyx.url = format!("http://{telnyx}/v2");
        // Another part of the process may have installed one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().map_err(io::Error::other)?;
        let clock = Clock::default();
        let stage = Stage::new(World::new(config.clone(), clock.now()), clock, http);
        stage.tasks.spawn(Arc::clone(&stage).run());
        for (listener, provider) in [(telnyx_listener, Provider::Telnyx), (meta_listener, Provider::Meta)] {
            let desk = Desk { stage: Arc::clone(&stage), provider };
            let routes = Router::new().fallback(serve::serve).with_state(desk).merge(control::routes(Arc::clone(&stage)));
            let service = routes.into_make_service_with_connect_info::<Scissors>();
            let closing = stage.closing.clone();
            stage.tasks.spawn(async move {
                tokio::select! {
                    ended = axum::serve(Cuttable(listener), service) => drop(ended),
                    () = closing.cancelled() => {}
                }
            });
        }
        Ok(Self { stage, telnyx, meta, config })
    }

    /// `http://127.0.0.1:port/v2`, for `TELNYX_API_URL`.
    pub fn telnyx_url(&self) -> String {
        format!("http://{}/v2", self.telnyx)
    }

    /// `http://127.0.0.1:port`, for `META_GRAPH_URL`.
    pub fn meta_url(&self) -> String {
        format!("http://{}", self.meta)
    }

    /// `http://127.0.0.1:port/_control`; the other listener serves it, too.
    pub fn control_url(&self) -> String {
        format!("http://{}/_control", self.telnyx)
    }

    /// The accounts, keys and tokens that a service must be given.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Telnyx's webhook key, base64 of 32 bytes.
    pub fn telnyx_public_key(&self) -> String {
        BASE64_STANDARD.encode(self.stage.look(|world| world.telnyx.key.verifying_key().to_bytes()))
    }

    /// Everything that a service needs, as its environment variables.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let (telnyx, meta) = (&self.config.telnyx, &self.config.meta);
        vec![
            ("TELNYX_API_URL", self.telnyx_url()),
            ("TELNYX_API_KEY", telnyx.api_key.clone()),
            ("TELNYX_PUBLIC_KEY", self.telnyx_public_key()),
            ("TELNYX_CONNECTION_ID", telnyx.connection_id.clone()),
            ("TELNYX_MESSAGING_PROFILE_ID", telnyx.messaging_profile_id.clone()),
            ("META_GRAPH_URL", self.meta_url()),
            ("META_APP_ID", meta.app_id.clone()),
            ("META_APP_SECRET", meta.app_secret.clone()),
            ("META_VERIFY_TOKEN", meta.verify_token.clone()),
            ("META_SYSTEM_TOKEN", meta.system_token.clone()),
            ("META_BUSINESS_ID", meta.business_id.clone()),
            ("META_WABA_ID", meta.waba_id.clone()),
        ]
    }

    /// Sends all webhooks to a service's two routes, from its base URL.
    pub fn serve_hooks_to(&self, base: &str) {
        self.aim(HookUrls::of_service(base));
    }

    /// New webhook targets; empty ones leave the old.
    pub fn aim(&self, urls: HookUrls) {
        self.stage.aim(urls);
    }

    /// Meta's verification GET to the app's callback: whether the challenge came back with status 200, and nothing else.
    pub async fn handshake(&self, verify_token: &str) -> bool {
        let url = self.stage.look(|world| world.config.hooks.meta.clone());
        hooks::handshake(&self.stage.http, &url, verify_token).await
    }

    pub fn clock(&self) -> &Clock {
        &self.stage.clock
    }

    /// Moves the simulators' clock; what became due has happened when this returns (webhooks have started out).
    pub fn advance(&self, by: Duration) {
        self.stage.advance(by);
    }

    /// Lets the simulators' clock stand still until it is told to [`go_on`](Self::go_on): what happens before [`advance`](Self::advance)
    /// moves it happens at one moment, however slow the machine. Nothing that is planned falls due by itself meanwhile.
    pub fn hold(&self) {
        self.stage.clock.hold();
    }

    /// The end of a [`hold`](Self::hold).
    pub fn go_on(&self) {
        self.stage.clock.go_on();
    }

    /// Returns once nothing falls due within seconds and no webhook is under way. Reviews, retries and other waits of
    /// the agenda are not waited for: move the clock.
    pub async fn settle(&self) {
        self.stage.settle().await;
    }

    /// Plans a fault for HTTP calls.
    pub fn fault(&self, plan: FaultPlan) {
        self.stage.act(|world| world.faults.plan(plan));
    }

    /// One fault for the next call of an operation.
    pub fn fault_next(&self, operation: &str, fault: Fault) {
        self.fault(FaultPlan { operation: operation.to_owned(), fault, skip: 0, times: 1, only: None });
    }

    /// Plans a turn of events.
    pub fn scene(&self, plan: ScenePlan) {
        self.stage.act(|world| world.faults.stage(plan));
    }

    /// A turn of events for the next moment that fits.
    pub fn scene_next(&self, scene: Scene) {
        self.scene(ScenePlan { scene, times: 1, only: None });
    }

    /// Plans what happens to webhooks.
    pub fn hook_fault(&self, plan: HookPlan) {
        self.stage.act(|world| world.faults.plan_hook(plan));
    }

    /// Takes back all plans.
    pub fn clear_plans(&self) {
        self.stage.act(|world| world.faults.clear());
    }

    pub fn be(&self, profile: Profile) {
        self.stage.act(|world| world.faults.be(profile));
    }

    pub fn books(&self) -> Books {
        self.stage.look(Books::of)
    }

    /// What became of the messages.
    pub fn message_books(&self) -> MessageBooks {
        self.stage.look(MessageBooks::of)
    }

    /// A person writes to one of our numbers: `content` is the message without its frame, e.g.
    /// `{"type":"text","text":{"body":"oui"}}`. The message's id; none if the number is not at Meta.
    pub fn write(&self, number: &str, from: &str, content: serde_json::Value) -> Option<String> {
        self.stage.act(|world| meta::users::write(world, number, from, content))
    }

    /// Keeps a file that a person sent; its media id, good for seven days.
    pub fn receive_media(&self, mime_type: &str, bytes: Vec<u8>) -> String {
        self.stage.act(|world| meta::media::receive(world, mime_type, bytes))
    }

    /// A person takes a username and hides the phone, or (with none) shows it again.
    pub fn hide_phone(&self, phone: &str, username: Option<&str>) {
        self.stage.act(|world| meta::users::hide(world, phone, username.map(str::to_owned)));
    }

    /// `stop` or `resume` of marketing messages, told to the number's service.
    pub fn prefer(&self, number: &str, phone: &str, wish: &str) {
        self.stage.act(|world| meta::users::prefer(world, number, phone, wish));
    }

    /// A person gets a new phone number, and with it a new business-scoped id.
    pub fn renumber(&self, number: &str, old: &str, new: &str) {
        self.stage.act(|world| meta::users::renumber(world, number, old, new));
    }

    /// A template's turn: `APPROVED`, `REJECTED`, `PAUSED`, `DISABLED`, `FLAGGED`, `REINSTATED`.
    pub fn decide_template(&self, template_id: &str, event: &str, reason: &str) {
        self.stage.act(|world| meta::templates::decide(world, template_id, event, reason));
    }

    /// A template's new quality: `GREEN`, `YELLOW`, `RED`.
    pub fn rate_template(&self, template_id: &str, quality: &str) {
        self.stage.act(|world| meta::templates::rate(world, template_id, quality));
    }

    pub fn recategorise_template(&self, template_id: &str, category: &str) {
        self.stage.act(|world| meta::templates::recategorise(world, template_id, category));
    }

    /// Raises a number to 1,000 messages per second, or lowers it to 80.
    pub fn raise_throughput(&self, phone_number_id: &str, high: bool) {
        self.stage.act(|world| meta::numbers::raise(world, phone_number_id, high));
    }

    /// A webhook change of any field, as Meta would send it for the account (account_update, account_alerts ...).
    pub fn announce(&self, number: &str, field: &str, value: serde_json::Value) {
        self.stage.act(|world| world.meta_change(number.trim_start_matches('+'), field, value));
    }

    /// Whether the account can pay (131042 otherwise) and whether it is locked (131031).
    pub fn set_account(&self, funded: bool, restricted: bool) {
        self.stage.act(|world| (world.meta.funded, world.meta.restricted) = (funded, restricted));
    }

    /// Meta counts so many billed messages to Morocco more (or fewer) for an account's number on the day of `at`.
    pub fn restate(&self, account: &str, number: &str, category: &str, at: chrono::DateTime<chrono::Utc>, by: i64) {
        self.stage.act(|world| meta::prices::restate(world, account, number.trim_start_matches('+'), category, at, by));
    }

    /// Telnyx charges something now, or, below zero, gives it back; in units of 0.0001 USD.
    pub fn surcharge(&self, phone: &str, kind: ChargeKind, cost: i64) {
        self.stage.act(|world| world.charge(Charge { at: world.now, phone: phone.to_owned(), kind, cost }));
    }

    /// Every call served so far (the newest 50,000), oldest first.
    pub fn journal(&self) -> Vec<Entry> {
        self.stage.look(|world| world.journal.entries().cloned().collect())
    }

    /// The kinds of webhooks sent so far (of the newest 20,000): Telnyx's event types and Meta's fields.
    pub fn webhook_kinds(&self) -> BTreeSet<String> {
        self.stage.look(|world| world.hooks.records.iter().map(|record| record.event.clone()).collect())
    }

    /// The code that verifies a number now, by its digits or Meta's id.
    pub fn code_of(&self, number: &str) -> Option<String> {
        self.stage.look(|world| world.code_of(number))
    }

    /// A stranger calls one of our numbers and says one sentence.
    pub fn call(&self, to: &str, text: &str) {
        self.stage.act(|world| world.call_number(to, None, text));
    }

    /// Somebody texts one of our numbers.
    pub fn text(&self, to: &str, from: &str, text: &str) {
        self.stage.act(|world| telnyx::text_to(world, to, from, text));
    }

    /// The reviewer's word on an order's documents.
    pub fn decide_order(&self, order_id: &str, approve: bool) {
        self.stage.act(|world| telnyx::decide(world, order_id, approve));
    }

    /// The reviewer's word on a display name.
    pub fn decide_name(&self, phone_number_id: &str, approve: bool) {
        self.stage.act(|world| meta::numbers::decide_name(world, phone_number_id, approve));
    }

    /// Closes both listeners and ends every task.
    pub async fn stop(self) {
        self.stage.closing.cancel();
        self.stage.tasks.close();
        self.stage.tasks.wait().await;
    }
}

impl Drop for Simulators {
    fn drop(&mut self) {
        self.stage.closing.cancel();
    }
}

/// The names of all operations that exist, for drills that are generated from them.
pub fn operations() -> Vec<&'static str> {
    telnyx::operations().chain(meta::operations()).map(|operation| operation.name).collect()
}
