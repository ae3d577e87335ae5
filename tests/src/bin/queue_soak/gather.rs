//! What the table says at the end.

use kvbroker::client::Client;
use kvbroker_protocol::Scan;
use kvbroker_tests::soak::{Evidence, Form};

use crate::Failed;
use crate::consume::SUM;

/// The effects of all items; the other fields are empty.
pub(crate) fn effects(client: &Client) -> Result<Evidence, Failed> {
    let mut evidence = Evidence::default();
    for form in Form::ALL {
        let prefix = form.effect_key(0).trim_end_matches('0').as_bytes().to_vec();
        for row in client.scan(Scan { prefix: prefix.clone(), ..Scan::default() }) {
            let row = row?;
            let number = row.key.strip_prefix(prefix.as_slice()).and_then(|rest| std::str::from_utf8(rest).ok()?.parse().ok());
            let Some(number) = number else { return Err(format!("{:?} is no effect of an item", row.key).into()) };
            match form {
                Form::Exact => {
                    let receipt = row.value.as_text().and_then(|text| text.parse().ok());
                    evidence.results.insert(number, receipt.ok_or_else(|| format!("the result of {number} is no receipt"))?);
                }
                Form::Loose => {
                    evidence.seen.insert(number, rmp_serde::from_slice(row.value.document())?);
                }
            }
        }
    }
    evidence.sum = client.get(SUM)?.map_or(Ok(0), |entry| rmp_serde::from_slice::<i64>(entry.value.document()))?.into();
    Ok(evidence)
}
