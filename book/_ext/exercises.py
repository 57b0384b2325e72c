"""What sphinx-exercise lacks: a list of all exercises, and pages on which no id stands twice."""

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode


class exercise_list(nodes.General, nodes.Element):
    """The list's place: exercises have their numbers only when all pages are read."""


class ExerciseList(SphinxDirective):
    def run(self):
        self.env.note_reread()  # it shows what stands on other pages
        return [exercise_list()]


class FillExerciseLists(SphinxPostTransform):
    default_priority = 5

    def exercises(self):
        """Number, page, label and title of each, in any order."""
        for label, entry in getattr(self.env, "sphinx_exercise_registry", {}).items():
            if entry["type"] == "exercise":
                number = self.env.toc_fignumbers[entry["docname"]]["exercise"][label]
                title = "".join(part.astext() for part in entry["node"][0][1:])
                yield number, entry["docname"], label, title

    def run(self):
        for place in list(self.document.findall(exercise_list)):
            chapters = {}
            for (*chapter, n), page, label, title in sorted(self.exercises()):
                chapter = ".".join(map(str, chapter))
                if page not in chapters:
                    heading = f"{chapter}. {self.env.titles[page].astext()}"
                    chapters[page] = nodes.section(ids=[nodes.make_id(page)])
                    chapters[page] += [nodes.title(text=heading), nodes.bullet_list()]
                text = nodes.Text(f"{chapter}.{n} {title}")
                link = make_refnode(self.app.builder, self.env.docname, page, label, text)
                chapters[page][-1] += nodes.list_item("", nodes.paragraph("", "", link))
            place.replace_self(list(chapters.values()))


def drop_ids(app, doctree, page):
    """sphinx-exercise gives the insides of every block on a page the same id."""
    for section in doctree.findall(nodes.section):
        if section["ids"] in (["exercise-content"], ["solution-content"]):
            section["ids"].clear()


def setup(app):
    app.add_node(exercise_list)
    app.add_directive("exercise-list", ExerciseList)
    app.add_post_transform(FillExerciseLists)
    app.connect("doctree-resolved", drop_ids)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
