"""The AWS endpoint: who answers which request, the backend behind it, and templates turned into resources.

- `endpoint.py` (shell): one HTTP listener on 4566; `routing.py` (pure) names the service a request is for.
- `backend.py` (shell): the child that answers for the services we do not own.
- `templates.py` (pure): CloudFormation documents and intrinsic functions; `sam.py`: SAM expanded in a child process.
- `stack.py` (shell): a template's backend resources deployed through the backend's own CloudFormation.
"""
