//! The caller's identity and API key.

use serde_json::{Value, json};

use crate::types::{ApiKeyInfo, Identity};

pub fn identity(identity: &Identity) -> Value {
    json!({ "user_urn": identity.user_urn, "org_urn": identity.org_urn, "email": identity.email })
}

pub fn api_key(key: &ApiKeyInfo) -> Value {
    json!({
        "key_id": key.key_id,
        "name": key.name,
        "note": key.note,
        "details": { "org_details": key.details.org_details, "user_details": key.details.user_details },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_and_a_key_have_all_their_fields() {
        let known = Identity {
            user_urn: "tml:user:1".into(),
            org_urn: Some("tml:organization:2".into()),
            email: Some("a@example.com".into()),
        };
        let shown =
            json!({ "user_urn": "tml:user:1", "org_urn": "tml:organization:2", "email": "a@example.com" });
        assert_eq!(identity(&known), shown);
        let sparse = Identity { user_urn: "tml:user:1".into(), ..Identity::default() };
        assert_eq!(identity(&sparse), json!({ "user_urn": "tml:user:1", "org_urn": null, "email": null }));

        let sent = json!({
            "key_id": 7, "name": "laptop", "note": null,
            "details": { "org_details": { "name": "Lab" }, "user_details": { "email": "a@example.com" } },
        });
        assert_eq!(api_key(&serde_json::from_value(sent.clone()).unwrap()), sent);
        let shown = json!({
            "key_id": null, "name": null, "note": null, "details": { "org_details": {}, "user_details": {} },
        });
        assert_eq!(api_key(&ApiKeyInfo::default()), shown);
    }
}
