"""Pictures for slides, handouts and pages. A scene says what they show, and several writers draw it."""
