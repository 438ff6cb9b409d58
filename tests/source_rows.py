"""One valid row of each source."""

import json

SCHEMA = {
    "name": "geo.area",
    "description": "Area of a room.",
    "parameters": {
        "type": "dict",
        "properties": {
            "width": {"type": "float", "description": "m"},
            "unit": {"type": "string", "description": "name"},
            "tags": {"type": "array", "items": {"type": "string"}, "description": "t"},
            "more": {"type": "dict", "properties": {}, "description": "d"},
        },
        "required": ["width"],
    },
}
POSSIBLE = [
    {"geo.area": {"width": [3.0], "unit": ["sq. m", ""], "tags": [["Big", "old"], ""], "more": [{"a": [1, ""]}, ""]}}
]
BFCL = {"id": "simple_0", "question": [[{"role": "user", "content": "How large?"}]], "function": [SCHEMA]}
HOTPOT = {
    "question": "Where was the maker of the Zob born?",
    "answer": "Lund",
    "supporting_facts": {"title": ["Zob", "Ida Ek"], "sent_id": [0, 0]},
    "context": {
        "title": ["Zob", "Ida Ek", "Kiln"],
        "sentences": [["The Zob is a boat", " made by Ida Ek."], ["Ida Ek was born in Lund."], ["A kiln burns clay."]],
    },
}
TOOLS = (
    'def area(width: float) -> float:\n    """Area.\n\n    Args:\n        width: in m\n    """\n    return width * 2\n'
)
PARQUET = {
    "question": "How large is a room of 3?",
    "reward_model": {"ground_truth": ["6"]},
    "extra_info": {
        "env": TOOLS,
        "func_schemas": json.dumps(
            [{"type": "function", "function": {**SCHEMA, "name": "area"}}],
        ),
    },
    "tool_calls_used": ["area"],
}
