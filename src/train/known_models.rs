//! Sizes of the models that the Tinker service serves.

/// A model's hidden size and the parameters of an adapter of rank 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownModel {
    /// Width of the residual stream.
    pub(super) hidden_size: u32,
    /// Parameters of an adapter of rank 1 in the MLP layers. All experts share the factor at the model's hidden
    /// dimension.
    pub(super) mlp: u64,
    /// The same in the attention layers.
    pub(super) attn: u64,
    /// The same in the unembedding.
    pub(super) unembed: u64,
}

/// The name of a model without the suffix after a colon that selects a variant of the service.
pub(super) fn base_name(model: &str) -> &str {
    model.split_once(':').map_or(model, |(name, _)| name)
}

/// The sizes of a model, by its name with or without a suffix.
pub(super) fn known_model(model: &str) -> Option<KnownModel> {
    let name = base_name(model);
    let (_, hidden_size, [mlp, attn, unembed]) = *TABLE.iter().find(|row| row.0 == name)?;
    Some(KnownModel { hidden_size, mlp, attn, unembed })
}

/// Name, hidden size, and parameters per rank in MLP, attention and unembedding: the table of tinker-cookbook 0.6.1.
#[rustfmt::skip]
const TABLE: [(&str, u32, [u64; 3]); 46] = [
    ("Qwen/Qwen3-235B-A22B-Instruct-2507", 4096, [56_598_528, 3_176_448, 156_032]),
    ("Qwen/Qwen3-30B-A3B", 2048, [14_450_688, 835_584, 153_984]),
    ("Qwen/Qwen3-30B-A3B-Base", 2048, [14_450_688, 835_584, 153_984]),
    ("Qwen/Qwen3-30B-A3B-Instruct-2507", 2048, [14_450_688, 835_584, 153_984]),
    ("Qwen/Qwen3-32B", 5120, [5_898_240, 2_490_368, 157_056]),
    ("Qwen/Qwen3-4B-Instruct-2507", 2560, [1_327_104, 737_280, 154_496]),
    ("Qwen/Qwen3-8B", 4096, [1_769_472, 958_464, 156_032]),
    ("Qwen/Qwen3-8B-Base", 4096, [1_769_472, 958_464, 156_032]),
    ("Qwen/Qwen3-VL-235B-A22B-Instruct", 4096, [56_598_528, 3_176_448, 156_032]),
    ("Qwen/Qwen3-VL-30B-A3B-Instruct", 2048, [14_450_688, 835_584, 153_984]),
    ("Qwen/Qwen3.5-27B", 5120, [4_325_376, 2_965_504, 253_440]),
    ("Qwen/Qwen3.5-35B-A3B", 2048, [16_281_600, 1_013_760, 250_368]),
    ("Qwen/Qwen3.5-35B-A3B-Base", 2048, [16_281_600, 1_013_760, 250_368]),
    ("Qwen/Qwen3.5-397B-A17B", 4096, [96_030_720, 2_841_600, 252_416]),
    ("Qwen/Qwen3.5-4B", 2560, [1_130_496, 897_024, 250_880]),
    ("Qwen/Qwen3.5-9B", 4096, [1_572_864, 1_130_496, 252_416]),
    ("Qwen/Qwen3.5-9B-Base", 4096, [1_572_864, 1_130_496, 252_416]),
    ("Qwen/Qwen3.6-27B", 5120, [4_325_376, 2_965_504, 253_440]),
    ("Qwen/Qwen3.6-35B-A3B", 2048, [16_281_600, 1_013_760, 250_368]),
    ("Qwen/Qwen3.8-27B", 5120, [4_325_376, 2_965_504, 253_440]),
    ("deepseek-ai/DeepSeek-V3.1", 7168, [94_307_328, 2_440_000, 136_448]),
    ("deepseek-ai/DeepSeek-V3.1-Base", 7168, [94_307_328, 2_440_000, 136_448]),
    ("deepseek-ai/DeepSeek-V4.1-Flash", 5120, [107_673_600, 1_013_760, 134_400]),
    ("deepseek-ai/DeepSeek-V4.1-Flash-1017", 5120, [107_673_600, 1_013_760, 134_400]),
    ("meta-llama/Llama-3.1-70B", 8192, [8_847_360, 4_096_000, 136_448]),
    ("meta-llama/Llama-3.1-8B", 4096, [1_769_472, 851_968, 132_352]),
    ("meta-llama/Llama-3.1-8B-Instruct", 4096, [1_769_472, 851_968, 132_352]),
    ("meta-llama/Llama-3.2-1B", 2048, [491_520, 212_992, 130_304]),
    ("meta-llama/Llama-3.2-3B", 3072, [946_176, 573_440, 131_328]),
    ("meta-llama/Llama-3.3-70B-Instruct", 8192, [8_847_360, 4_096_000, 136_448]),
    ("moonshotai/Kimi-K2-Thinking", 7168, [144_583_680, 1_940_288, 171_008]),
    ("moonshotai/Kimi-K2.5", 7168, [144_583_680, 1_940_288, 171_008]),
    ("moonshotai/Kimi-K2.6", 7168, [144_583_680, 1_940_288, 171_008]),
    ("moonshotai/Kimi-K3.1-Pro", 7168, [766_457_856, 8_040_960, 171_008]),
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 2688, [11_346_176, 584_832, 133_760]),
    ("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16", 4096, [111_349_760, 1_675_264, 135_168]),
    ("nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", 8192, [254_529_536, 4_134_912, 139_264]),
    ("nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16", 2688, [11_346_176, 584_832, 133_760]),
    ("nvidia/NVIDIA-Nemotron-3.5-Super-VL-120B-A12B-BF16", 4096, [111_349_760, 1_675_264, 135_168]),
    ("openai/gpt-oss-120b", 2880, [40_124_160, 746_496, 203_968]),
    ("openai/gpt-oss-20b", 2880, [6_842_880, 497_664, 203_968]),
    ("thinkingmachines/Inkling", 6144, [154_705_920, 3_424_256, 207_168]),
    ("thinkingmachines/Inkling-2-Small", 4608, [128_065_536, 2_347_008, 205_632]),
    ("thinkingmachines/Inkling-Small", 4096, [64_503_808, 1_311_744, 205_120]),
    ("zai-org/GLM-5.3", 6144, [121_356_288, 2_920_320, 161_024]),
    ("zai-org/GLM-5.3-Flash", 4096, [75_755_520, 2_009_088, 158_976]),];
