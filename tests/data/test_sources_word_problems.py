"""SVAMP and MAWPS: equations become calls, other rows are rejected with a reason."""

import json
from collections import Counter

from mentorlib.data.check_references import verify_references
from mentorlib.data.sources import read_sources
from mentorlib.data.sources.word_problems import read_mawps, read_svamp

HEAD = "Question,Numbers,Equation,Answer\n"


def test_an_equation_in_prefix_notation_becomes_calls_in_order_of_evaluation(tmp_path, sandbox):
    file = tmp_path / "train.csv"
    rows = [
        '"It has number0 boxes , each with number1 hats . Did n\'t it ?",8.0 4.5,* number0 + number1 2.0,52.0',
        "number0 of number1,8.0,- number0 number1,1",
        "number0 of number1,8 x,- number0 number1,1",
        "q,1 2,- number0,1",
        "q,1 2,number0 number1,1",
        "q,1 2,number0,1",
        "q,1 0,/ number0 number1,1",
        "q,1 2,- number0 number1,1",
        "q,1 2,- number0 number1,one",
        "q,1 2,** number0 number1,1",
        "q,1 2",
    ]
    file.write_text(HEAD + "\n".join(rows))
    pairs, rejected = read_mawps(file)
    ((task, reference),) = pairs
    assert task.question == "It has 8 boxes, each with 4.5 hats. Didn't it?"
    assert [(call.name, *call.arguments.values()) for call in reference.calls] == [
        ("add", 4.5, 2),
        ("multiply", 8, 6.5),
    ]
    assert task.answer == "52" and verify_references(pairs, sandbox) == (pairs, [])
    assert [row.reason for row in rejected] == [
        "a number is missing",
        "a number is missing",
        "the equation is not arithmetic",
        "the equation is not arithmetic",
        "the equation makes no call",
        "the equation cannot be computed",
        "the equation does not give the answer",
        "the answer is not a number",
        "the equation is not arithmetic",
        "no equation",
    ]
    assert [row.where for row in rejected] == [f"train.csv:{line}" for line in range(3, 13)]


def test_a_body_that_is_half_a_sentence_is_joined_to_its_question(tmp_path):
    file = tmp_path / "SVAMP.json"
    row = {
        "Body": "If a cup costs 3 dollars",
        "Question": "How much are 4?",
        "Equation": "( 3.0 * 4.0 )",
        "Answer": 12.0,
    }
    file.write_text(json.dumps([row, row | {"Body": "A cup costs 3 dollars."}]))
    pairs, _ = read_svamp(file)
    assert [task.question for task, _ in pairs] == [
        "If a cup costs 3 dollars, how much are 4?",
        "A cup costs 3 dollars. How much are 4?",
    ]
    assert {(task.suite, task.split) for task, _ in pairs} == {("svamp", "eval")}


def test_the_published_files_convert(shared, sandbox):
    folder = shared / "data/wordproblems"
    sources = ["svamp:SVAMP.json", "mawps:mawps_fold0_train.csv", "mawps_test:mawps_fold0_dev.csv"]
    pairs, rejected, cards = read_sources([source.replace(":", f":{folder}/") for source in sources], n_eval=100)
    assert [(card["read"], card["rows"]) for card in cards] == [(998, 1000), (1525, 1537), (381, 384)]
    assert len(rejected) == 17
    assert Counter((task.suite, task.split) for task, _ in pairs) == {
        ("svamp", "eval"): 998,
        ("mawps", "train"): 1425,
        ("mawps", "eval"): 100,
        ("mawps_test", "eval"): 381,
    }
    assert verify_references(pairs[::20], sandbox) == (pairs[::20], [])
