from hydrax_core import DataGroup

files = [f"{number}.png" for number in range(100)]
