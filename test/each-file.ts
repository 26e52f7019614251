/** Loaded for each test file: its hook is the file's first, and so runs behind the file's own. */
import { afterAll } from "vitest";
import { putAway } from "./behind.js";

afterAll(putAway);
