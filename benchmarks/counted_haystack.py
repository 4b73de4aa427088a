"""The counting model as Haystack's component, whose types are read at run time."""

from counted import Model
from haystack import Document, component


@component
class Counted:
    def __init__(self) -> None:
        self.model = Model()

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        for document, vector in zip(documents, self.model.embed([d.content for d in documents]), strict=True):
            document.embedding = vector
        return {"documents": documents}
