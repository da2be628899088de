-- A wholesaler in the manner of Northwind, written anew: bpchar keys, smallint keys, a composite primary key, a self
-- reference, real and bytea columns, and a table that relates two others.
CREATE TABLE customers (customer_id bpchar NOT NULL PRIMARY KEY, company_name varchar(40) NOT NULL, country varchar(15));
CREATE TABLE customer_demographics (customer_type_id bpchar NOT NULL PRIMARY KEY, customer_desc text);
CREATE TABLE customer_customer_demo (customer_id bpchar NOT NULL REFERENCES customers,
    customer_type_id bpchar NOT NULL REFERENCES customer_demographics, PRIMARY KEY (customer_id, customer_type_id));
CREATE TABLE suppliers (code char(5) NOT NULL PRIMARY KEY, company_name text NOT NULL);
CREATE TABLE employees (employee_id smallint NOT NULL PRIMARY KEY, last_name varchar(20) NOT NULL, photo bytea,
    reports_to smallint REFERENCES employees);
CREATE TABLE products (product_id smallint NOT NULL PRIMARY KEY, product_name varchar(40) NOT NULL,
    supplier char(5) REFERENCES suppliers, unit_price real, discontinued integer NOT NULL);
CREATE TABLE orders (order_id smallint NOT NULL PRIMARY KEY, customer_id bpchar REFERENCES customers,
    employee_id smallint REFERENCES employees, order_date date, freight real);
CREATE TABLE order_details (order_id smallint NOT NULL REFERENCES orders, product_id smallint NOT NULL REFERENCES products,
    unit_price real NOT NULL, quantity smallint NOT NULL, PRIMARY KEY (order_id, product_id));
CREATE TABLE territories (territory_id varchar(20) NOT NULL PRIMARY KEY, description bpchar NOT NULL);
CREATE TABLE employee_territories (employee_id smallint NOT NULL REFERENCES employees,
    territory_id varchar(20) NOT NULL REFERENCES territories, PRIMARY KEY (employee_id, territory_id));
CREATE VIEW order_subtotals AS
    SELECT order_id, sum(unit_price * quantity) AS subtotal FROM order_details GROUP BY order_id;
INSERT INTO customers SELECT 'C' || lpad(i::text, 4, '0'), 'Company ' || i, 'UK' FROM generate_series(1, 91) i;
INSERT INTO customer_demographics VALUES ('big  ', 'pads'), ('small', NULL);
INSERT INTO customer_customer_demo SELECT customer_id, 'big' FROM customers;
INSERT INTO suppliers SELECT 'S' || i, 'Supplier ' || i FROM generate_series(1, 29) i;
INSERT INTO employees SELECT i, 'Last ' || i, '\x00ff', nullif(i / 2, 0) FROM generate_series(1, 9) i;
INSERT INTO products SELECT i, 'Product ' || i, 'S' || 1 + i % 29, i * 0.1, 0 FROM generate_series(1, 77) i;
INSERT INTO orders SELECT 10247 + i, 'C' || lpad((1 + i % 91)::text, 4, '0'), 1 + i % 9, '1997-01-01', i * 0.3
    FROM generate_series(1, 830) i;
INSERT INTO order_details SELECT 10248 + i % 830, 1 + i % 77, i * 0.1, 1 + i % 9 FROM generate_series(0, 2154) i;
INSERT INTO territories SELECT lpad(i::text, 5, '0'), 'Territory ' || i FROM generate_series(1, 53) i;
INSERT INTO employee_territories SELECT 1 + i % 9, lpad(i::text, 5, '0') FROM generate_series(1, 53) i;
