//! A message template: Meta's published rules checked before submission, variables filled at the send, names kept apart.
//!
//! contracts/meta-cloud-api.md 6.1 and 7.4.

use crate::{
    TenantId,
    problem::{Check, Problem},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::ops::Range;

mod fill;
mod rules;

/// Characters that Meta allows (contracts/meta-cloud-api.md 6.1).
const META_NAME_MAX: usize = 512;
const BODY_MAX: usize = 1024;
const HEADER_MAX: usize = 60;
const FOOTER_MAX: usize = 60;
const URL_MAX: usize = 2_000;
const COUPON_MAX: usize = 15;
/// Thirty days: as long as Meta keeps any message.
const TTL_MAX_S: i64 = 2_592_000;
/// Our prefix at Meta: `t`, the tenant's id in 32 hex digits, `_`.
const PREFIX_LENGTH: usize = 34;
/// Characters of a tenant's own template name.
pub const NAME_MAX: usize = META_NAME_MAX - PREFIX_LENGTH;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Category {
    Marketing,
    Utility,
    Authentication,
}

impl Category {
    /// In any case.
    pub fn read(name: &str) -> Option<Self> {
        [Self::Marketing, Self::Utility, Self::Authentication].into_iter().find(|c| c.name().eq_ignore_ascii_case(name))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Marketing => "MARKETING",
            Self::Utility => "UTILITY",
            Self::Authentication => "AUTHENTICATION",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ParameterFormat {
    Named,
    Positional,
}

impl ParameterFormat {
    pub fn name(self) -> &'static str {
        match self {
            Self::Named => "NAMED",
            Self::Positional => "POSITIONAL",
        }
    }
}

/// A template that keeps Meta's rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// The tenant's own name, without prefix.
    pub name: String,
    /// `fr`, `en_US`, `ar_MA`: with an underscore.
    pub language: String,
    pub category: Category,
    pub parameter_format: ParameterFormat,
    /// Meta's component JSON, its `type`s and `format`s in upper case.
    pub components: Vec<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_send_ttl_seconds: Option<i64>,
    /// It says itself who writes and for whom, so no introduction goes before it.
    #[serde(default)]
    pub introduces: bool,
}

/// Something that a send must give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variable {
    /// Its key in the `variables` object: a name, a position (`"1"`), `"header"` or `"button_2"`.
    pub key: String,
    /// `HEADER`, `BODY` or `BUTTONS[2]`; of a variable in two places the first.
    pub component: String,
    /// Only a quick reply's payload may be left out, and an array never has it.
    pub required: bool,
}

/// A template with its values in place.
#[derive(Debug, Clone, PartialEq)]
pub struct Filled {
    /// The Cloud API's `template.components`.
    pub components: Vec<Value>,
    /// The body as the reader sees it.
    pub body: String,
}

/// Checks a request: Meta's component JSON with `name`, `language`, `category`, and perhaps `parameter_format`,
/// `message_send_ttl_seconds`, `introduces`. Finds all that is wrong, named by component.
pub fn parse(request: &Value) -> Result<Template, Vec<Problem>> {
    let mut check = Check::default();
    let Some(fields) = check.object(Some(request), "template") else { return check.done(None) };
    let name = check.text(fields, "", "name", NAME_MAX);
    if name.is_some_and(|name| !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')) {
        check.add("name", "invalid_name", "name has lower-case letters a-z, digits and underscores only");
    }
    let language = check.text(fields, "", "language", FOOTER_MAX).map(|language| language.replace('-', "_"));
    if language.as_deref().is_some_and(|language| !is_language(language)) {
        check.add("language", "invalid_language", "language is a code such as fr, ar or en_US");
    }
    let category = check.text(fields, "", "category", FOOTER_MAX).and_then(|name| {
        let category = Category::read(name);
        if category.is_none() {
            check.add("category", "invalid_category", "category is MARKETING, UTILITY or AUTHENTICATION");
        }
        category
    });
    let parameter_format = match fields.get("parameter_format").map(|format| format.as_str().unwrap_or_default()) {
        Some(format) if format.eq_ignore_ascii_case("NAMED") => ParameterFormat::Named,
        Some(format) if format.eq_ignore_ascii_case("POSITIONAL") => ParameterFormat::Positional,
        None => ParameterFormat::Positional,
        Some(_) => {
            check.add("parameter_format", "wrong_value", "parameter_format is NAMED or POSITIONAL");
            ParameterFormat::Positional
        }
    };
    let ttl = fields.get("message_send_ttl_seconds").filter(|ttl| !ttl.is_null());
    if let Some(ttl) = ttl {
        if !ttl.as_i64().is_some_and(|seconds| (1..=TTL_MAX_S).contains(&seconds)) {
            check.add("message_send_ttl_seconds", "wrong_value", "message_send_ttl_seconds is 1 to 2592000 seconds");
        } else if category == Some(Category::Marketing) {
            check.add("message_send_ttl_seconds", "not_allowed", "a MARKETING template has no message_send_ttl_seconds");
        }
    }
    let introduces = match fields.get("introduces") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(introduces)) => *introduces,
        Some(_) => {
            check.add("introduces", "wrong_type", "introduces is true or false");
            false
        }
    };
    let components = rules::components(fields, category, parameter_format, &mut check);
    let template = name.zip(language).zip(category).map(|((name, language), category)| Template {
        name: name.to_owned(),
        language,
        category,
        parameter_format,
        components,
        message_send_ttl_seconds: ttl.and_then(Value::as_i64),
        introduces,
    });
    check.done(template)
}

impl Template {
    /// The body of Meta's create call, under the name that Meta knows.
    pub fn submission(&self, meta_name: &str) -> Value {
        let mut body = json!({
            "name": meta_name,
            "language": self.language,
            "category": self.category,
            "parameter_format": self.parameter_format,
            "allow_category_change": false,
            "components": self.components,
        });
        if let Some(ttl) = self.message_send_ttl_seconds {
            body["message_send_ttl_seconds"] = json!(ttl);
        }
        body
    }

    /// The Cloud API's `template` object of a send.
    pub fn send(&self, meta_name: &str, filled: &Filled) -> Value {
        json!({"name": meta_name, "language": {"code": self.language}, "components": filled.components})
    }
}

/// The name under which Meta knows a tenant's template: many tenants share one account.
pub fn meta_name(tenant: TenantId, name: &str) -> String {
    format!("t{}_{name}", tenant.0.simple())
}

/// Back: whose template is it, and what does the tenant call it? None for names that are not ours.
pub fn own_name(meta_name: &str) -> Option<(TenantId, &str)> {
    let (id, rest) = meta_name.strip_prefix('t')?.split_at_checked(PREFIX_LENGTH - 2)?;
    let name = rest.strip_prefix('_')?;
    let tenant = TenantId(uuid::Uuid::try_parse(id).ok()?);
    // Only the spelling that we write.
    (self::meta_name(tenant, name) == meta_name).then_some((tenant, name))
}

/// A `{{variable}}` in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention<'a> {
    pub name: &'a str,
    /// With its braces.
    pub range: Range<usize>,
}

/// All variables of a text in order; none if braces are left open, nested or empty.
pub fn scan(text: &str) -> Option<Vec<Mention<'_>>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(open) = text[from..].find("{{").map(|at| at + from) {
        let close = text[open..].find("}}").map(|at| at + open)?;
        let name = text[open + 2..close].trim();
        if name.is_empty() || name.contains(['{', '}']) || text[from..open].contains("}}") {
            return None;
        }
        found.push(Mention { name, range: open..close + 2 });
        from = close + 2;
    }
    (!text[from..].contains("}}")).then_some(found)
}

fn distinct<'a>(mentions: &[Mention<'a>]) -> Vec<&'a str> {
    let mut names = Vec::new();
    for mention in mentions {
        if !names.contains(&mention.name) {
            names.push(mention.name);
        }
    }
    names
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

/// `fr`, `fil`, `en_US`, `zh_HK`.
fn is_language(code: &str) -> bool {
    let (language, country) = code.split_once('_').map_or((code, None), |(language, country)| (language, Some(country)));
    (2..=3).contains(&language.len())
        && language.bytes().all(|b| b.is_ascii_lowercase())
        && country.is_none_or(|country| (2..=3).contains(&country.len()) && country.bytes().all(|b| b.is_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rendezvous() -> Value {
        json!({"name": "rendez_vous", "language": "fr", "category": "utility", "parameter_format": "named", "components": [
            {"type": "header", "format": "text", "text": "Poste de {{poste}}",
             "example": {"header_text_named_params": [{"param_name": "poste", "example": "Caissier"}]}},
            {"type": "body", "text": "Salut {{prenom}}, nous vous attendons le {{date}} à notre agence pour le poste.",
             "example": {"body_text_named_params": [{"param_name": "prenom", "example": "Nadia"}, {"param_name": "date", "example": "3 mai"}]}},
            {"type": "footer", "text": "Agence du Port"},
            {"type": "buttons", "buttons": [{"type": "quick_reply", "text": "J'y serai"}, {"type": "quick_reply", "text": "Impossible"},
             {"type": "url", "text": "Venir", "url": "https://port.example/plan/{{1}}", "example": ["https://port.example/plan/7"]}]}]})
    }

    fn positional(text: &str, examples: &[&str]) -> Value {
        json!({"name": "n", "language": "ar", "category": "MARKETING",
            "components": [{"type": "BODY", "text": text, "example": {"body_text": [examples]}}]})
    }

    fn problems(request: &Value) -> Vec<(String, &'static str)> {
        parse(request).err().unwrap_or_default().into_iter().map(|p| (p.component, p.code)).collect()
    }

    fn body_code(text: &str, examples: &[&str]) -> Vec<&'static str> {
        problems(&positional(text, examples)).into_iter().map(|(_, code)| code).collect()
    }

    #[test]
    fn the_rules_of_a_body() {
        assert_eq!(body_code("Bonjour {{1}}, votre dossier est complet.", &["Nadia"]), [""; 0]);
        assert_eq!(body_code("{{1}}, votre dossier est complet.", &["x"]), ["variable_at_edge"]);
        assert_eq!(body_code("Votre dossier est complet {{1}} ", &["x"]), ["variable_at_edge"]);
        assert_eq!(body_code("Un deux trois {{1}} {{2}} quatre cinq six", &["x", "y"]), ["variables_adjacent"]);
        assert_eq!(body_code("Un {{1}} deux {{2}} trois", &["x", "y"]), ["too_many_variables"]);
        assert_eq!(body_code("Un deux {{1}} trois quatre", &[]), ["missing_example"]);
        assert_eq!(body_code("Un deux {{2}} trois quatre", &["x"]), ["invalid_variable"]);
        assert_eq!(body_code("Un deux {{1 trois quatre", &["x"]), ["invalid_variable"]);
        assert_eq!(body_code("Un deux {{prenom}} trois quatre", &["x"]), ["invalid_variable"]);
        assert_eq!(body_code(&"x".repeat(1025), &[]), ["too_long"]);
        assert_eq!(body_code(" ", &[]), ["required"]);
    }

    #[test]
    fn every_component_is_named_by_its_errors() {
        assert_eq!(problems(&rendezvous()), []);
        let mut bad = rendezvous();
        bad["name"] = json!("Rendez-vous");
        bad["language"] = json!("français");
        bad["category"] = json!("PROMO");
        bad["components"][0]["text"] = json!("{{a}} {{b}}");
        bad["components"][2]["text"] = json!("Chez {{x}}");
        bad["components"][3]["buttons"] = json!([{"type": "QUICK_REPLY", "text": "a"}, {"type": "URL", "text": "b", "url": "port.example"},
            {"type": "QUICK_REPLY", "text": "x".repeat(26)}, {"type": "POKE", "text": "c"}]);
        let found = problems(&bad);
        for expected in [
            ("name", "invalid_name"),
            ("language", "invalid_language"),
            ("category", "invalid_category"),
            ("HEADER", "too_many_variables"),
            ("HEADER", "missing_example"),
            ("FOOTER", "variable_not_allowed"),
            ("BUTTONS[1]", "invalid_url"),
            ("BUTTONS[2].text", "too_long"),
            ("BUTTONS[3]", "unknown_button"),
            ("BUTTONS", "buttons_not_grouped"),
        ] {
            assert!(found.contains(&(expected.0.to_owned(), expected.1)), "{expected:?} in {found:?}");
        }
        assert_eq!(problems(&json!({"name": "n", "language": "fr", "category": "UTILITY"})), [("components".into(), "required")]);
        let twice = json!({"name": "n", "language": "fr", "category": "UTILITY",
            "components": [{"type": "BODY", "text": "Un"}, {"type": "BODY", "text": "Deux"}]});
        assert_eq!(problems(&twice), [("BODY".into(), "duplicate_component")]);
        let image = json!({"name": "n", "language": "fr", "category": "UTILITY",
            "components": [{"type": "HEADER", "format": "IMAGE"}, {"type": "BODY", "text": "Un"}]});
        assert_eq!(problems(&image), [("HEADER".into(), "missing_example")]);
    }

    #[test]
    fn an_authentication_template_is_metas_own_text() {
        let code = |body: Value, button: Value| {
            json!({"name": "code", "language": "fr", "category": "AUTHENTICATION", "components": [body,
                {"type": "FOOTER", "code_expiration_minutes": 10}, {"type": "BUTTONS", "buttons": [button]}]})
        };
        let body = json!({"type": "BODY", "add_security_recommendation": true});
        let button = json!({"type": "OTP", "otp_type": "copy_code", "text": "Copier"});
        let template = parse(&code(body.clone(), button.clone())).unwrap();
        let filled = template.fill(&json!(["123456"])).unwrap();
        assert_eq!(filled.components.len(), 2);
        assert_eq!(filled.components[1]["parameters"], json!([{"type": "text", "text": "123456"}]));
        let worded = json!({"type": "BODY", "text": "Code {{1}}"});
        assert_eq!(problems(&code(worded, button)), [("BODY".into(), "not_allowed")]);
        let tap = json!({"type": "OTP", "otp_type": "ONE_TAP"});
        assert_eq!(problems(&code(body.clone(), tap)), [("BUTTONS[0].supported_apps".into(), "required")]);
        assert_eq!(problems(&code(body, json!({"type": "URL"}))), [("BUTTONS[0]".into(), "not_allowed")]);
    }

    #[test]
    fn variables_fill_by_name_or_in_order() {
        let template = parse(&rendezvous()).unwrap();
        let keys: Vec<_> = template.variables().into_iter().filter(|v| v.required).map(|v| v.key).collect();
        assert_eq!(keys, ["poste", "prenom", "date", "button_2"]);
        let by_order = template.fill(&json!(["Caissier", "Nadia", "3 mai", "abc"])).unwrap();
        let by_name =
            template.fill(&json!({"poste": "Caissier", "prenom": "Nadia", "date": "3 mai", "button_2": "abc"})).unwrap();
        assert_eq!(by_order, by_name);
        assert_eq!(by_order.body, "Salut Nadia, nous vous attendons le 3 mai à notre agence pour le poste.");
        assert_eq!(
            template.send("x", &by_order),
            json!({"name": "x", "language": {"code": "fr"}, "components": [
                {"type": "header", "parameters": [{"type": "text", "parameter_name": "poste", "text": "Caissier"}]},
                {"type": "body", "parameters": [{"type": "text", "parameter_name": "prenom", "text": "Nadia"},
                    {"type": "text", "parameter_name": "date", "text": "3 mai"}]},
                {"type": "button", "sub_type": "url", "index": "2", "parameters": [{"type": "text", "text": "abc"}]}]})
        );
        let with_payload = json!({"poste": "C", "prenom": "N", "date": "3", "button_2": "a", "button_0": "cand_7|oui"});
        let filled = template.fill(&with_payload).unwrap();
        assert_eq!(filled.components[2]["parameters"], json!([{"type": "payload", "payload": "cand_7|oui"}]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let template = parse(&rendezvous()).unwrap();
        let codes = |variables: Value| template.fill(&variables).unwrap_err().into_iter().map(|p| p.code).collect::<Vec<_>>();
        assert_eq!(codes(json!(["a"])), ["wrong_variable_count"]);
        assert_eq!(codes(Value::Null), ["wrong_variable_count"]);
        assert_eq!(codes(json!("a")), ["wrong_type"]);
        assert_eq!(
            codes(json!({"poste": "a", "prenom": "b", "date": "c", "nom": "d"})),
            ["missing_variable", "unknown_variable"]
        );
        assert_eq!(codes(json!(["a", "b\nc", " ", {}])), ["invalid_value", "invalid_value", "invalid_value"]);
        assert_eq!(codes(json!(["a", "b     c", "d", "e"])), ["invalid_value"]);
        assert_eq!(codes(json!(["a", "x".repeat(1000), "d", "e"])), ["too_long"]);
        let plain = parse(&positional("Votre dossier est complet.", &[])).unwrap();
        assert_eq!(plain.fill(&Value::Null).unwrap().components, Vec::<Value>::new());
    }

    #[test]
    fn a_media_header_takes_an_id_or_a_link() {
        let template = parse(&json!({"name": "n", "language": "fr", "category": "UTILITY", "components": [
            {"type": "HEADER", "format": "DOCUMENT", "example": {"header_handle": ["4::x"]}},
            {"type": "BODY", "text": "Voici votre contrat {{1}}, signez demain.", "example": {"body_text": [["CDI"]]}}]}))
        .unwrap();
        let filled = template.fill(&json!({"header": "https://x.example/c.pdf", "1": "CDD"})).unwrap();
        assert_eq!(filled.components[0]["parameters"][0]["document"], json!({"link": "https://x.example/c.pdf"}));
        assert!(template.takes_a_file());
        for bad in [
            json!({"link": "ftp://x"}),
            json!({"id": 9}),
            json!({"id": "9", "link": "https://x"}),
            json!({}),
            json!(""),
            json!(7),
        ] {
            assert_eq!(template.fill(&json!([bad, "CDD"])).unwrap_err()[0].code, "invalid_value", "{bad}");
        }
        assert_eq!(
            template.fill(&json!([{"id": "9", "filename": "c.pdf"}, 7])).unwrap().body,
            "Voici votre contrat 7, signez demain."
        );
        assert_eq!(template.estimated_length(), "Voici votre contrat CDI, signez demain.".len());
    }

    #[test]
    fn names_at_meta_belong_to_one_tenant() {
        let tenant = TenantId(uuid::Uuid::from_u128(7));
        let name = meta_name(tenant, "rendez_vous");
        assert_eq!(own_name(&name), Some((tenant, "rendez_vous")));
        for other in ["rendez_vous", "t1_x", "", "té", "t0000000000000000000000000000000G_x"] {
            assert_eq!(own_name(other), None, "{other}");
        }
        assert_eq!(meta_name(tenant, &"x".repeat(NAME_MAX)).len(), 512);
    }

    proptest! {
        #[test]
        fn names_go_to_meta_and_back(id: u128, name in "[a-z0-9_]{1,60}") {
            let tenant = TenantId(uuid::Uuid::from_u128(id));
            let at_meta = meta_name(tenant, &name);
            prop_assert_eq!(own_name(&at_meta), Some((tenant, name.as_str())));
        }

        #[test]
        fn what_is_scanned_is_what_was_written(parts in prop::collection::vec(("[^{}]{0,8}", "[a-z]{1,5}"), 0..6), tail in "[^{}]{0,8}") {
            let text: String = parts.iter().map(|(before, name)| format!("{before}{{{{{name}}}}}")).collect::<String>() + &tail;
            let names: Vec<String> = scan(&text).unwrap().iter().map(|m| m.name.to_owned()).collect();
            let expected: Vec<String> = parts.into_iter().map(|(_, name)| name).collect();
            prop_assert_eq!(names, expected);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[{}a-z1-9 é.]{0,40}", value in ".{0,40}") {
            if let Ok(template) = parse(&positional(&text, &["x", "y", "z"])) {
                let _ = template.fill(&json!([value]));
                template.estimated_length();
            }
        }

        #[test]
        fn a_filled_body_holds_every_value(first in "[a-z]{1,20}", second in "[a-z]{1,20}") {
            let template = parse(&positional("Bonjour {{1}}, rendez-vous le {{2}} à notre agence.", &["a", "b"])).unwrap();
            let filled = template.fill(&json!([first, second])).unwrap();
            prop_assert_eq!(filled.body, format!("Bonjour {first}, rendez-vous le {second} à notre agence."));
        }
    }
}
