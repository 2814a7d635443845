// Package session is what a cell's program does for the session it belongs to.
package session

import (
	"kernelagent/channel"
)

// Result shows the values of a cell's last expression.
func Result(values ...any) {
	if len(values) == 1 {
		if err, ok := values[0].(error); ok && err == nil {
			return
		}
	}
	text := ""
	for i, value := range values {
		if i > 0 {
			text += ", "
		}
		text += format(value)
	}
	line := channel.Field([]byte(`{"op":"result"`), "text", text)
	// Alone, or at the end of the host, there is nobody to show it to.
	_, _ = channel.Exchange(append(line, '}'))
}
