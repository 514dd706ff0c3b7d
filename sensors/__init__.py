"""Sensors: they compare what others computed and ask for runs. They compute nothing heavy, and change nothing but the
book of alarms.
"""
