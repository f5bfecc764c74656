def table(document):
    return ""


def plot(document, path):
    pass
