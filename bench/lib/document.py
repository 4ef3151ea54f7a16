"""Parts of a document that a script writes: what stands between <!-- name --> and <!-- /name -->."""
from .process import Failure


def replace_part(path, name, text):
    first, last = "<!-- %s -->" % name, "<!-- /%s -->" % name
    with open(path, encoding="utf-8") as file:
        whole = file.read()
    if whole.count(first) != 1 or whole.count(last) != 1 or whole.index(first) > whole.index(last):
        raise Failure("%s has no part %s" % (path, name))
    before, rest = whole.split(first, 1)
    after = rest.split(last, 1)[1]
    with open(path, "w", encoding="utf-8") as file:
        file.write("%s%s\n%s\n%s%s" % (before, first, text.strip("\n"), last, after))
