web_texts = ["w" * (5 + number % 90) for number in range(200)]
book_texts = ["b" * (5 + number) for number in range(60)]
code_texts = ["c" * (5 + number) for number in range(30)]
arrays = {"size": ((), "int32")}


def load(text, arrays, seed):
    arrays["size"][...] = len(text)
