SCHEMAS: dict = {}
PARAMETERS: dict = {}
