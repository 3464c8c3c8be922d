"""Providers of models by the names that gateways give them: dialect, base URL and the variable with the key."""

from __future__ import annotations

from relayd.dataclass import dataclass
from relayd.importers._draft import Values


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider. `url` is empty if every user has an own address; `variable` is the usual name of the key's variable."""

    protocol: str
    url: str
    variable: str = ""
    header: str = ""  # the field of the key; empty is a bearer

    def auth(self, key: object) -> Values:
        return {"header": {"name": self.header, "value": key}} if self.header else {"bearer": key}


def _chat(url: str, variable: str) -> Provider:
    return Provider("openai_chat", url, variable)


PROVIDERS: dict[str, Provider] = {
    "openai": _chat("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "anthropic": Provider("anthropic_messages", "https://api.anthropic.com", "ANTHROPIC_API_KEY", "x-api-key"),
    "gemini": Provider("gemini", "https://generativelanguage.googleapis.com/v1beta", "GEMINI_API_KEY", "x-goog-api-key"),
    "ollama": Provider("ollama", "http://127.0.0.1:11434"), "ollama_chat": Provider("ollama", "http://127.0.0.1:11434"),
    "openrouter": _chat("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"), "groq": _chat("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": _chat("https://api.mistral.ai/v1", "MISTRAL_API_KEY"), "deepseek": _chat("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "together_ai": _chat("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"), "xai": _chat("https://api.x.ai/v1", "XAI_API_KEY"),
    "fireworks_ai": _chat("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"), "perplexity": _chat("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    "cerebras": _chat("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"), "deepinfra": _chat("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "nvidia_nim": _chat("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"), "hosted_vllm": _chat("", ""), "vllm": _chat("", ""),
    "lm_studio": _chat("", ""), "openai_like": _chat("", ""), "litellm_proxy": _chat("", ""), "llamafile": _chat("", ""),
}
OPENAI_NAMES = ("gpt-", "chatgpt-", "o1", "o3", "o4", "text-embedding-", "dall-e-", "whisper-", "tts-")


def provider_of(model: str) -> tuple[str, str]:
    """The provider and its model of a name like `openai/gpt-4o`; the provider is empty if it is not known."""
    name, slash, rest = model.partition("/")
    if slash and name in PROVIDERS:
        return name, rest
    if not slash and model.startswith(OPENAI_NAMES):
        return "openai", model
    if not slash and model.startswith("claude-"):
        return "anthropic", model
    return "", model
