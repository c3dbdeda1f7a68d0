//! Usage, storage and costs. A cost that is not known is `null`.

use serde_json::{Map, Value, json};

use super::time;
use crate::types::{BillingUsage, StorageEntry, StorageUsage, UsageEvent, UsageKind};

pub fn billing_usage(usage: &BillingUsage) -> Value {
    let session = |(id, session): (&String, &crate::types::UsageSession)| {
        (id.clone(), json!({ "user_metadata": session.user_metadata }))
    };
    json!({
        "data": usage.events.iter().map(event).collect::<Vec<_>>(),
        "sessions": usage.sessions.iter().map(session).collect::<Map<_, _>>(),
        "cost_data_through": time(usage.cost_data_through.as_ref()),
    })
}

fn event(event: &UsageEvent) -> Value {
    json!({
        "bucket_start": time(event.bucket_start.as_ref()),
        "bucket_end": time(event.bucket_end.as_ref()),
        "base_model": event.base_model,
        "user_id": event.user_id,
        "user_name": event.user_name,
        "session_id": event.session_id,
        "project_id": event.project_id,
        "estimated_cost_usd": event.estimated_cost_usd,
        "effective_rate_usd_per_million_tokens": event.effective_rate_usd_per_million_tokens,
        "effective_rate_usd_per_gigabyte_month": event.effective_rate_usd_per_gigabyte_month,
        "event_info": kind(&event.event_info),
    })
}

fn kind(kind: &UsageKind) -> Value {
    match kind {
        UsageKind::Training { token_count } => json!({ "type": "training", "token_count": token_count }),
        UsageKind::SamplingPrefill { cached, token_count } => {
            json!({ "type": "sampling_prefill", "cached": cached, "token_count": token_count })
        }
        UsageKind::SamplingSample { token_count } => {
            json!({ "type": "sampling_sample", "token_count": token_count })
        }
        UsageKind::Checkpoint { count } => json!({ "type": "checkpoint", "count": count }),
        UsageKind::Storage { free, gigabyte_hours } => {
            json!({ "type": "storage", "free": free, "gigabyte_hours": gigabyte_hours })
        }
        UsageKind::Other(map) => map.clone().into(),
    }
}

pub fn storage_usage(usage: &StorageUsage) -> Value {
    json!({
        "effective_rate_usd_per_gigabyte_month": usage.effective_rate_usd_per_gigabyte_month,
        "data": usage.entries.iter().map(storage_entry).collect::<Vec<_>>(),
    })
}

fn storage_entry(entry: &StorageEntry) -> Value {
    json!({
        "project_id": entry.project_id,
        "org_user_urn": entry.org_user_urn,
        "user_email": entry.user_email,
        "user_name": entry.user_name,
        "checkpoint_count": entry.checkpoint_count,
        "size_bytes": entry.size_bytes,
        "size_gigabytes": entry.size_gigabytes,
        "estimated_monthly_cost_usd": entry.estimated_monthly_cost_usd,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn usage_has_all_its_fields_and_unknown_costs_are_null() {
        let sent = json!({
            "data": [{
                "bucket_start": "2026-11-20T09:00:00+00:00", "bucket_end": "2026-11-20T10:00:00+00:00",
                "base_model": "a/model", "user_id": "u", "user_name": "Ann", "session_id": "s", "project_id": "p",
                "estimated_cost_usd": 1.25, "effective_rate_usd_per_million_tokens": 0.5,
                "event_info": { "type": "training", "token_count": 2_500_000 },
            }, {
                "event_info": { "type": "storage", "gigabyte_hours": 1.5 },
            }],
            "sessions": { "s": { "user_metadata": { "recipe": "sft" } } },
            "cost_data_through": "2026-11-20T08:00:00Z",
        });
        let usage: BillingUsage = serde_json::from_value(sent).unwrap();
        let shown = json!({
            "data": [{
                "bucket_start": "2026-11-20T09:00:00Z", "bucket_end": "2026-11-20T10:00:00Z",
                "base_model": "a/model", "user_id": "u", "user_name": "Ann", "session_id": "s", "project_id": "p",
                "estimated_cost_usd": 1.25, "effective_rate_usd_per_million_tokens": 0.5,
                "effective_rate_usd_per_gigabyte_month": null,
                "event_info": { "type": "training", "token_count": 2_500_000 },
            }, {
                "bucket_start": null, "bucket_end": null, "base_model": null, "user_id": null, "user_name": null,
                "session_id": null, "project_id": null, "estimated_cost_usd": null,
                "effective_rate_usd_per_million_tokens": null, "effective_rate_usd_per_gigabyte_month": null,
                "event_info": { "type": "storage", "free": false, "gigabyte_hours": 1.5 },
            }],
            "sessions": { "s": { "user_metadata": { "recipe": "sft" } } },
            "cost_data_through": "2026-11-20T08:00:00Z",
        });
        assert_eq!(billing_usage(&usage), shown);
        let nothing = json!({ "data": [], "sessions": {}, "cost_data_through": null });
        assert_eq!(billing_usage(&BillingUsage::default()), nothing);
    }

    #[test]
    fn every_kind_of_usage_is_shown_as_received() {
        for sent in [
            json!({ "type": "training", "token_count": 1 }),
            json!({ "type": "sampling_prefill", "cached": true, "token_count": 2 }),
            json!({ "type": "sampling_sample", "token_count": 3 }),
            json!({ "type": "checkpoint", "count": 4 }),
            json!({ "type": "storage", "free": true, "gigabyte_hours": 0.5 }),
            json!({ "type": "evaluation", "minutes": 5 }),
        ] {
            assert_eq!(kind(&serde_json::from_value(sent.clone()).unwrap()), sent);
        }
    }

    #[test]
    fn storage_has_all_its_fields() {
        let sent = json!({
            "effective_rate_usd_per_gigabyte_month": 0.1,
            "data": [{
                "project_id": "p", "org_user_urn": "tml:user:1", "user_email": "a@example.com", "user_name": "Ann",
                "checkpoint_count": 3, "size_bytes": 1_500_000_000, "size_gigabytes": 1.5,
                "estimated_monthly_cost_usd": 0.15,
            }, {
                "project_id": null, "org_user_urn": null, "user_email": null, "user_name": null,
                "checkpoint_count": 0, "size_bytes": 0, "size_gigabytes": 0.0, "estimated_monthly_cost_usd": null,
            }],
        });
        assert_eq!(storage_usage(&serde_json::from_value(sent.clone()).unwrap()), sent);
    }
}
