//! The constructors of `Datum` for each loss, such as `Datum::ppo`, with the embedded engine.

use tinkex::local::Server;
use tinkex::types::{Datum, Loss, LossFn, ModelInput, SampleOptions, SamplingParams};

#[test]
fn each_loss_takes_the_data_of_its_constructor_and_an_unchanged_policy_has_the_ratio_1_at_any_temperature() {
    let server = Server::start(Default::default()).unwrap();
    let builder = tinkex::ServiceClient::builder().base_url(server.url()).api_key(server.api_key());
    let service = builder.build().unwrap();
    let training = service.create_lora_training_client("tinkex/nano", Default::default()).unwrap();
    let sampler = training.save_weights_and_get_sampling_client().unwrap();
    let prompt = [72, 105, 32];
    let params =
        SamplingParams { max_tokens: Some(5), temperature: 0.5, seed: Some(1), ..Default::default() };
    let options = SampleOptions { include_prompt_logprobs: true, ..Default::default() };
    let answer = sampler.sample_with(&ModelInput::from_ints(prompt), 1, &params, &options).wait().unwrap();
    let sequence = &answer.sequences[0];
    let (tokens, logprobs) = (&sequence.tokens, sequence.logprobs.as_deref().unwrap());
    let scored = answer.prompt_logprobs.as_deref().unwrap();
    let advantages = vec![2.0f32; tokens.len()];

    // The model is unchanged since it sampled: its log-probabilities are those of the sample, and their ratio is 1.
    // Each loss is then the sum over the tokens of −A or −A·logp, with the advantage A = 2.
    let ratios = -2.0 * tokens.len() as f64;
    let scores = -2.0 * logprobs.iter().map(|it| f64::from(*it)).sum::<f64>();
    let table: [(Loss, tinkex::Result<Datum>, f64); 5] = [
        (
            LossFn::ImportanceSampling.into(),
            Datum::importance_sampling(&prompt, tokens, logprobs, &advantages),
            ratios,
        ),
        (LossFn::Ppo.into(), Datum::ppo(&prompt, tokens, logprobs, &advantages), ratios),
        (LossFn::Cispo.into(), Datum::cispo(&prompt, tokens, logprobs, &advantages), scores),
        (LossFn::Dro.with("beta", 0.05), Datum::dro(&prompt, scored, tokens, logprobs, &advantages), scores),
        (LossFn::Gspo.into(), Datum::gspo(&prompt, tokens, logprobs, &advantages), ratios),
    ];
    for (loss, datum, expected) in table {
        let name = loss.loss_fn.to_string();
        let output = training.forward_backward(vec![datum.unwrap()], loss).wait().unwrap();
        let found = output.loss().unwrap();
        assert!((found - expected).abs() < 1e-3 * expected.abs(), "{name}: {found} instead of {expected}");
    }
    // Data of `cross_entropy` have weights, which PPO refuses.
    let supervised = Datum::cross_entropy(&prompt, tokens);
    assert!(training.forward(vec![supervised], LossFn::Ppo).wait().unwrap_err().is_user_error());
}
