"""Says hello, as its settings say."""
import configparser
import os
import sys

settings = configparser.ConfigParser()
settings.read(os.path.join(os.path.dirname(__file__), "settings.ini"))
print(settings["app"]["greeting"], sys.argv[1] if len(sys.argv) > 1 else os.getuid())
